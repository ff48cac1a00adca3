"""Checks of Muon's kernels and steps, and of the watch over gradients."""

import math
from functools import partial

import torch
from torch import nn

from muloco.gpu_check.bench import Bench, CheckFailed, Figures, apart, expect, normal
from muloco.gpu_check.device import graphed, no_host_waits, seconds, synchronize
from muloco.optim import orthogonalize as orthogonalized
from muloco.optim.rules import RULES
from muloco.optim.symmetric import symmetric_product as product
from muloco.pytorch import Muon
from muloco.training.finite import GradientWatch, NonFiniteGradient


def orthogonalize(bench: Bench) -> Figures:
    shapes = bench.size(((512, 512), (2816, 1024), (1024, 2816), (2048, 2048), (3, 512, 512)), ((48, 48), (96, 32)))
    figures: Figures = {}
    for shape in shapes:
        for scale in (1e-30, 1e-12, 1.0, 1e12, 1e30):
            matrix = (normal(shape, 1) * scale).to(bench.device)
            with no_host_waits(bench.device):
                result = orthogonalized(matrix)
            values = torch.linalg.svdvals(result.cpu().double())
            name = "x".join(map(str, shape))
            if scale == 1.0:
                figures[f"{name}_least"], figures[f"{name}_greatest"] = float(values.min()), float(values.max())
            expect(
                bool(0.5 < values.median() < 1.3 and values.max() < 1.4),
                f"{name} at scale {scale:g}: singular values from {values.min():.3f} to {values.max():.3f}",
            )
    expect(not orthogonalized(torch.zeros(64, 64, device=bench.device)).any(), "zeros do not stay zeros")
    bad = torch.randn(64, 64, device=bench.device)
    bad[3, 3] = math.nan
    expect(bool(orthogonalized(bad).isnan().all()), "a NaN does not spread to the whole matrix")
    return figures


def muon_rule(bench: Bench) -> Figures:
    """Compares steps on the device with those of the same class in fp64 on the CPU, by each rule that needs whole
    matrices. They differ by the rounding of bf16 products. The last shape is a stack of fused matrices."""
    shapes = bench.size(((256, 256), (704, 256), (256, 704), (4, 768, 256)), ((32, 32), (48, 16), (3, 48, 16)))
    stack = {"layout": "stacked", "split": (2, 1)}
    differences: Figures = {}
    for rule in (rule for rule in RULES.values() if rule.needs_whole_matrices):
        moved = []
        for device, dtype in ((bench.device, torch.float32), (torch.device("cpu"), torch.float64)):
            start = [normal(shape, seed).to(device, dtype) for seed, shape in enumerate(shapes)]
            params = [nn.Parameter(tensor.clone()) for tensor in start]
            groups = [
                {"params": params[:-1], "algorithm": rule.name},
                {"params": params[-1:], "algorithm": rule.name, **stack},
            ]
            optimizer = Muon(groups, 0.02, weight_decay=0.01)
            for step in range(10):
                for index, param in enumerate(params):
                    param.grad = normal(param.shape, 100 * (step + 1) + index).to(device, dtype)
                with no_host_waits(device):
                    optimizer.step()
            moved.append([(p.detach() - x).cpu().double() for p, x in zip(params, start, strict=True)])
        worst = max(map(apart, *moved))
        expect(
            worst < 0.03,
            f"{rule.name}: the changes of the parameters differ by {worst:.1e}, relative to their norm; below 0.03 is "
            "allowed",
        )
        differences["difference" if rule.name == "muon" else f"{rule.name}_difference"] = worst
    return differences


def muon_graph(bench: Bench) -> Figures:
    shapes = bench.size([(512, 512)] * 4 + [(1408, 512), (512, 1408)], [(32, 32)] * 2)

    def make() -> tuple[list[nn.Parameter], Muon]:
        params = [nn.Parameter(normal(shape, seed).to(bench.device)) for seed, shape in enumerate(shapes)]
        for index, param in enumerate(params):
            param.grad = normal(param.shape, 100 + index).to(bench.device)
        return params, Muon(params, 0.02, weight_decay=0.01)

    eager_params, eager = make()
    graph_params, captured = make()
    replay = graphed(captured.step, bench.device, warmup=3)
    for _ in range(5):
        replay()
    for _ in range(3 + 5):
        eager.step()
    synchronize(bench.device)
    worst = max(map(apart, graph_params, eager_params))
    expect(worst < 1e-5, f"replayed and eager steps differ by {worst:.1e}")
    return {
        "difference": worst,
        "eager_ms": 1e3 * seconds(eager.step, bench.device),
        "replayed_ms": 1e3 * seconds(replay, bench.device),
    }


def symmetric_product(bench: Bench) -> Figures:
    by = bench.size("triton", "matmul")
    figures: Figures = {}
    for dtype, tolerance in ((torch.bfloat16, 1e-2), (torch.float32, 1e-5)):
        errors = []
        for shape in bench.size(((1, 1024, 1024), (3, 512, 1408), (1, 129, 257), (7, 300, 1000)), ((2, 33, 65),)):
            x = normal(shape, 3).to(bench.device, dtype)
            out = torch.empty(*shape[:-1], shape[-2], device=bench.device, dtype=dtype)
            product(x, x.mT, out=out, by=by)  # compiles the kernel
            with no_host_waits(bench.device):
                product(x, x.mT, out=out, by=by)
            errors.append(apart(out.cpu().double(), x.cpu().double() @ x.cpu().double().mT))
            name = "x".join(map(str, shape))
            expect(errors[-1] < tolerance, f"{name} in {dtype} has an error of {errors[-1]:.1e}")
            expect(by == "matmul" or torch.equal(out, out.mT), f"{name} is not symmetric to the bit")
        figures[f"error_{str(dtype).removeprefix('torch.')}"] = max(errors)
    for n in bench.size((1024, 2048, 4096), (64,)):
        x = torch.randn(1, n, n, device=bench.device).bfloat16()
        out = torch.empty_like(x)
        for way in bench.size(("triton", "matmul", "auto"), ("matmul", "auto")):
            figures[f"{way}_{n}_ms"] = 1e3 * seconds(partial(product, x, x.mT, out=out, by=way), bench.device)
    return figures


def gradient_watch(bench: Bench) -> Figures:
    shape = bench.size((1000, 300), (10, 3))
    named = {f"p{i}": nn.Parameter(torch.randn(shape, device=bench.device)) for i in range(50)}
    for param in named.values():
        param.grad = torch.randn_like(param)
    watch = GradientWatch(named)
    bad = named["p7"].grad
    assert bad is not None
    with no_host_waits(bench.device):
        watch.observe(1)
        bad[3, 2] = math.inf
        watch.observe(2)
    try:
        watch.check(2)
    except NonFiniteGradient as error:
        expect("p7" in str(error), f"it names another parameter: {error}")
    else:
        raise CheckFailed("an infinite gradient was not noticed")
    return {"microseconds": 1e6 * seconds(lambda: watch.observe(3), bench.device)}
