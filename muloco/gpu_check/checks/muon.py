"""Speed of a Muon step on the matrices of a flavor, compared with other optimizers."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from muloco.gpu_check.bench import Bench, Figures
from muloco.gpu_check.device import forget_memory, launch_seconds, peak_bytes, seconds
from muloco.model.flavors import flavor
from muloco.optim.owners import BATCH_ELEMENTS
from muloco.pytorch import Muon

Params = list[nn.Parameter]
Build = Callable[[Params], torch.optim.Optimizer]
STEPS = 5
"""Number of Newton-Schulz steps whose FLOPs are counted."""
OURS = ("muloco", "torch", "adamw")
"""Optimizers whose failure fails the check. The others are in separate packages, which may be missing."""
SHARED: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.01}


def muon_batches(bench: Bench) -> Figures:
    """Measures a step at 416M, in ms, for several numbers of elements in a batch."""
    optimizer = Muon(_params(bench, "416M"), **SHARED)
    chosen, figures = BATCH_ELEMENTS[bench.device.type], {}
    for power in (20, 22, 24, 26, 28):
        BATCH_ELEMENTS[bench.device.type] = 2**power
        figures[f"2_to_{power}_ms"] = 1e3 * seconds(optimizer.step, bench.device, repeats=5)
    BATCH_ELEMENTS[bench.device.type] = chosen
    return {"chosen_elements": chosen, **figures}


def _step(bench: Bench, *, alias: str) -> Figures:
    """Measures a step of each optimizer on the matrices of a flavor."""
    n = bench.size(4096, 64)
    x, y = (torch.randn(n, n, device=bench.device).bfloat16() for _ in range(2))
    out = torch.empty_like(x)
    rate = 2 * n**3 / seconds(lambda: torch.mm(x, y, out=out), bench.device)
    figures: Figures = {f"bf16_{n}_tflops": rate / 1e12}
    flops = sum(STEPS * (4 * min(s) ** 2 * max(s) + 2 * min(s) ** 3) for s in _shapes(bench, alias))
    for name, build in _optimizers(bench).items():
        try:
            measured = _measured(bench, alias, build)
        except Exception as error:  # a failure of another package does not fail the check
            if name in OURS:
                raise
            if not isinstance(error, ImportError):
                figures[name] = f"{type(error).__name__}: {str(error)[:80]}"
        else:
            figures |= {f"{name}_{figure}": value for figure, value in measured.items()}
            if name != "adamw":
                figures[f"{name}_of_gemm"] = flops / (float(measured["ms"]) / 1e3) / rate
        forget_memory(bench.device)
    return figures


muon_416M = partial(_step, alias="416M")
muon_150M = partial(_step, alias="150M")
muon_1_76B = partial(_step, alias="1.76B")


def _measured(bench: Bench, alias: str, build: Build) -> Figures:
    """Measures the step of one optimizer, with no other optimizer in memory."""
    optimizer = build(_params(bench, alias))
    optimizer.step()
    return {
        "ms": 1e3 * seconds(optimizer.step, bench.device, repeats=bench.size(15, 2)),
        "launch_ms": 1e3 * launch_seconds(optimizer.step, bench.device),
        "peak_mib": round(peak_bytes(optimizer.step, bench.device) / 2**20),
    }


def _shapes(bench: Bench, alias: str) -> list[tuple[int, int]]:
    return [(rows, columns) for rows, columns in flavor(bench.size(alias, "tiny")).matrices.values()]


def _params(bench: Bench, alias: str) -> Params:
    params = [nn.Parameter(torch.randn(shape, device=bench.device)) for shape in _shapes(bench, alias)]
    for param in params:
        param.grad = torch.randn_like(param)
    return params


def _optimizers(bench: Bench) -> dict[str, Build]:
    """Returns a constructor for each optimizer, muloco's first. That of a missing package raises ImportError."""
    return {
        "muloco": lambda params: Muon(params, **SHARED),
        "torch": lambda params: torch.optim.Muon(params, momentum=0.9, nesterov=False, **SHARED),
        "dion": lambda params: _dion(params, triton=False),
        "dion_triton": lambda params: _dion(params, triton=not bench.rehearsal),
        "emerging": lambda params: _emerging(params, syrk=not bench.rehearsal),
        "optimuon": _optimuon,
        "adamw": lambda params: torch.optim.AdamW(params, fused=True, **SHARED),
    }


def _dion(params: Params, *, triton: bool) -> torch.optim.Optimizer:
    options = {"mu": 0.9, "adjust_lr": "spectral_norm", "use_polar_express": False, **SHARED}
    return import_module("dion").Muon(params, use_triton=triton, **options)


def _emerging(params: Params, *, syrk: bool) -> torch.optim.Optimizer:
    module = import_module("emerging_optimizers.orthogonalized_optimizers")
    return module.Muon(params, momentum=0.9, use_syrk=syrk, **SHARED)


def _optimuon(params: Params) -> torch.optim.Optimizer:
    plain = {"normuon": False, "cautious_wd": False, "gram_ns": False, "ns_dtype": torch.bfloat16}
    return import_module("optimuon").Muon(params, momentum=0.9, nesterov=False, **plain, **SHARED)
