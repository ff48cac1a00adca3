"""Speed of a Muon step on the matrices of a flavor, compared with other optimizers."""

import importlib
from collections.abc import Callable

import torch
from torch import nn

from muloco.gpu_check.bench import Bench, Figures, NotHere
from muloco.gpu_check.device import forget_memory, launch_seconds, peak_bytes, seconds

Params = list[nn.Parameter]
STEPS = 5
"""Number of Newton-Schulz steps whose FLOPs are counted."""
OURS = ("muloco", "torch", "adamw")
"""Optimizers whose failure fails the check. The others are in separate packages, which may be missing."""


def step_416M(bench: Bench) -> Figures:
    return _step(bench, "416M")


def step_150M(bench: Bench) -> Figures:
    return _step(bench, "150M")


def step_1_76B(bench: Bench) -> Figures:
    return _step(bench, "1.76B")


def batches(bench: Bench) -> Figures:
    """Measures a step at 416M, in ms, for several numbers of elements in a batch."""
    owners = importlib.import_module("muloco.optim.owners")
    sizes = getattr(owners, "BATCH_ELEMENTS", None)
    if sizes is None:
        raise NotHere("Muon has no BATCH_ELEMENTS to choose")
    params = _params(bench, "416M")
    optimizer = _ours(params)
    kind, found = bench.device.type, {}
    before = sizes[kind]
    for power in (20, 22, 24, 26, 28):
        sizes[kind] = 2**power
        found[f"2_to_{power}_ms"] = 1e3 * seconds(optimizer.step, bench.device, repeats=5)
    sizes[kind] = before
    return {"chosen_elements": before, **found}


def _step(bench: Bench, alias: str) -> Figures:
    n = bench.size(4096, 64)
    x, y = (torch.randn(n, n, device=bench.device).bfloat16() for _ in range(2))
    out = torch.empty_like(x)
    rate = 2 * n**3 / seconds(lambda: torch.mm(x, y, out=out), bench.device)
    found: Figures = {f"bf16_{n}_tflops": rate / 1e12}
    flops = sum(STEPS * (4 * min(s) ** 2 * max(s) + 2 * min(s) ** 3) for s in _shapes(bench, alias))
    for name, build in _optimizers(bench).items():
        try:
            measured = _measured(bench, alias, build)
        except ImportError:
            if name in OURS:
                raise
        except Exception as error:  # a failure of another package does not fail the check
            if name in OURS:
                raise
            found[name] = f"{type(error).__name__}: {str(error)[:80]}"
        else:
            found |= {f"{name}_{figure}": value for figure, value in measured.items()}
            if name != "adamw":
                found[f"{name}_of_gemm"] = flops / (float(measured["ms"]) / 1e3) / rate
        forget_memory(bench.device)
    return found


def _measured(bench: Bench, alias: str, build: Callable[[Params], torch.optim.Optimizer]) -> Figures:
    """Measures the step of one optimizer, with no other optimizer in memory."""
    params = _params(bench, alias)
    optimizer = build(params)
    optimizer.step()
    return {
        "ms": 1e3 * seconds(optimizer.step, bench.device, repeats=bench.size(15, 2)),
        "launch_ms": 1e3 * launch_seconds(optimizer.step, bench.device),
        "peak_mib": round(peak_bytes(optimizer.step, bench.device) / 2**20),
    }


def _shapes(bench: Bench, alias: str) -> list[tuple[int, int]]:
    from muloco.model.flavors import flavor

    return [(rows, columns) for rows, columns in flavor(bench.size(alias, "tiny")).matrices.values()]


def _params(bench: Bench, alias: str) -> Params:
    shapes = _shapes(bench, alias)
    params = [nn.Parameter(torch.randn(shape, device=bench.device)) for shape in shapes]
    for param in params:
        param.grad = torch.randn_like(param)
    return params


def _optimizers(bench: Bench) -> dict[str, Callable[[Params], torch.optim.Optimizer]]:
    """Returns a constructor for each optimizer, muloco's first. That of a missing package raises ImportError."""
    return {
        "muloco": _ours,
        "torch": lambda params: torch.optim.Muon(params, 0.02, weight_decay=0.01, momentum=0.9, nesterov=False),
        "dion": lambda params: _dion(params, triton=False),
        "dion_triton": lambda params: _dion(params, triton=not bench.rehearsal),
        "emerging": lambda params: _emerging(params, syrk=not bench.rehearsal),
        "optimuon": _optimuon,
        "adamw": lambda params: torch.optim.AdamW(params, 0.02, weight_decay=0.01, fused=True),
    }


def _ours(params: Params) -> torch.optim.Optimizer:
    from muloco.pytorch import Muon

    return Muon(params, 0.02, weight_decay=0.01)


def _dion(params: Params, *, triton: bool) -> torch.optim.Optimizer:
    options = {"lr": 0.02, "mu": 0.9, "weight_decay": 0.01, "adjust_lr": "spectral_norm"}
    return importlib.import_module("dion").Muon(params, use_triton=triton, use_polar_express=False, **options)


def _emerging(params: Params, *, syrk: bool) -> torch.optim.Optimizer:
    module = importlib.import_module("emerging_optimizers.orthogonalized_optimizers")
    return module.Muon(params, 0.02, momentum=0.9, weight_decay=0.01, use_syrk=syrk)


def _optimuon(params: Params) -> torch.optim.Optimizer:
    plain = {"normuon": False, "cautious_wd": False, "gram_ns": False, "ns_dtype": torch.bfloat16}
    return importlib.import_module("optimuon").Muon(
        params, 0.02, momentum=0.9, nesterov=False, weight_decay=0.01, **plain
    )
