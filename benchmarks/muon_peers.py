"""Muons of other packages, where they are installed: `pip install 'muloco[bench]'`."""

import importlib
import importlib.util
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch

OPTIONS = {"lr": 0.02, "weight_decay": 0.01}
Params = list[torch.Tensor]


def _muon_optimizer(params: Params) -> torch.optim.Optimizer:
    # By its file: its module is called muon, as the benchmark's script is.
    path = metadata.distribution("muon-optimizer").locate_file("muon.py")
    spec = importlib.util.spec_from_file_location("muon_optimizer", str(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SingleDeviceMuon(params, momentum=0.9, **OPTIONS)


def _pytorch_optimizer(params: Params) -> torch.optim.Optimizer:
    group: dict[str, Any] = {"params": params, "use_muon": True}
    return importlib.import_module("pytorch_optimizer").Muon([group], momentum=0.9, nesterov=False, **OPTIONS)


def _optimuon(params: Params) -> torch.optim.Optimizer:
    # Less what other Muons do not do (NorMuon's second moment, cautious decay), and in bfloat16: its float16 is slow.
    plain = {"normuon": False, "cautious_wd": False, "gram_ns": False, "ns_dtype": torch.bfloat16}
    return importlib.import_module("optimuon").Muon(params, momentum=0.9, nesterov=False, **plain, **OPTIONS)


def _heavyball(params: Params) -> torch.optim.Optimizer:
    return importlib.import_module("heavyball").Muon(params, **OPTIONS)


PEERS: dict[str, tuple[str, Callable[[Params], torch.optim.Optimizer]]] = {
    "muon-optimizer": ("muon-optimizer", _muon_optimizer),
    "pytorch_optimizer": ("pytorch-optimizer", _pytorch_optimizer),
    "optimuon": ("optimuon", _optimuon),
    "heavyball": ("heavyball", _heavyball),
}
"""Distribution and how its Muon is made, by the name in the table."""


def installed() -> dict[str, Callable[[Params], torch.optim.Optimizer]]:
    """Returns the peers that are installed, by name."""
    return {name: build for name, (package, build) in PEERS.items() if version(package) is not None}


def versions() -> dict[str, str | None]:
    """Returns the version of each distribution; None if it is not installed."""
    return {package: version(package) for package, _ in PEERS.values()}


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
