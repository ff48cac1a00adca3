"""One step of Muon on the matrices of a flavor: ours, torch's, those of other packages that are installed, and AdamW.

    python benchmarks/muon.py [--flavor 416M] [--threads N] [--rounds N] [--device cuda]
    python benchmarks/muon.py --ranks 2,4 [--flavor 416M] [--rounds N]

The second form steps matrices that are sharded over ranks, see benchmarks/muon_ranks.py. Of the first:

All take turns in one run. Prints a table and writes results/muon/FLAVOR.json. "of GEMM" is the rate of the plain 5-step
iteration (its FLOPs over the time of the whole step) beside that of the bf16 products F X of the same matrices, batched
as Muon batches them, measured in the same round; ratios are medians over the rounds, as other work on the machine comes
and goes. With one CPU thread the clock is the processor time of this process, which other work disturbs less. Before a
clock starts and before it stops, a GPU has done all that it was given. Orthogonality: singular values of one update of
a Gaussian gradient, without momentum and with the scale of the lr divided out; 1 is exact.

"plain products" are all those of the plain iteration, Gram matrices and their squares too, without any pass between
them; "and two passes" adds what no step is without: momentum <- momentum + gradient, and the parameter multiplied in
place. An optimizer is above that where it needs fewer products.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import muon_peers
import muon_ranks
import torch

from muloco.model.architecture import Flavor
from muloco.model.flavors import flavor
from muloco.optim.owners import BATCH_ELEMENTS
from muloco.pytorch import Muon

RESULTS = Path(__file__).parents[1] / "results" / "muon"
BAR = 0.85
STEPS = 5

OPTIMIZERS: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "muloco Muon": lambda params: Muon(params, 0.02, weight_decay=0.01),
    "torch Muon": lambda params: torch.optim.Muon(params, 0.02, weight_decay=0.01, momentum=0.9, nesterov=False),
    "torch AdamW": lambda params: torch.optim.AdamW(params, 0.02, weight_decay=0.01),
}


def shapes(size: Flavor) -> list[tuple[int, int]]:
    """`[fan_out, fan_in]` of every matrix that Muon takes."""
    return [(rows, columns) for rows, columns in size.matrices.values()]


def flops(matrices: list[tuple[int, int]]) -> int:
    """FLOPs of the plain iteration: a Gram matrix, its square and one product with X a step; 2 a multiplication."""
    total = 0
    for shape in matrices:
        small, large = min(shape), max(shape)
        total += STEPS * (4 * small * small * large + 2 * small**3)
    return total


def seconds(work: Callable[[], object], device: str) -> float:
    clock = time.process_time if _counts_processor_time(device) else time.perf_counter
    _finish(device)
    started = clock()
    work()
    _finish(device)
    return clock() - started


def _finish(device: str) -> None:
    """Waits until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def _counts_processor_time(device: str) -> bool:
    return device == "cpu" and torch.get_num_threads() == 1


def batches(matrices: list[tuple[int, int]], device: str) -> Iterator[tuple[int, int, int]]:
    """`(count, rows, cols)` of the batches in which Muon orthogonalizes them."""
    for (rows, cols), count in Counter(matrices).items():
        most = max(1, BATCH_ELEMENTS[device] // (rows * cols))
        for start in range(0, count, most):
            yield min(most, count - start), rows, cols


def gemm_rate(matrices: list[tuple[int, int]], device: str) -> float:
    """FLOP/s of bf16 products of square matrices with the matrices, a batch of each size."""
    done, taken = 0, 0.0
    for count, rows, cols in sorted(set(batches(matrices, device))):
        small, large = sorted((rows, cols))
        factor = torch.randn(count, small, small, device=device).bfloat16()
        x = torch.randn(count, small, large, device=device).bfloat16()
        out = torch.empty_like(x)

        def work(triple: tuple = (factor, x, out)) -> None:
            for _ in range(STEPS):
                torch.bmm(triple[0], triple[1], out=triple[2])

        work()
        done += STEPS * 2 * count * small * small * large
        taken += seconds(work, device)
    return done / taken


def floor(matrices: list[tuple[int, int]], device: str) -> tuple[float, float]:
    """Seconds of the products of the plain iteration, and of two passes over parameters and state."""
    products = passes = 0.0
    for count, rows, cols in batches(matrices, device):
        x, spare = (torch.randn(count, rows, cols, device=device).bfloat16() for _ in range(2))
        small = min(rows, cols)
        gram, factor = (torch.empty(count, small, small, device=device, dtype=x.dtype) for _ in range(2))
        last = (x, factor, spare) if rows > cols else (factor, x, spare)
        first = (x.mT, x, gram) if rows > cols else (x, x.mT, gram)

        def work(steps: int, triples: tuple = (first, (gram, gram, factor), last)) -> None:
            for _ in range(steps):
                for left, right, out in triples:
                    torch.bmm(left, right, out=out)

        work(1)
        products += seconds(partial(work, STEPS), device)
        params = [torch.zeros(3, rows, cols, device=device) for _ in range(count)]

        def sweep(params: list[torch.Tensor] = params) -> None:
            for param, gradient, momentum in params:
                torch.add(gradient, momentum, alpha=0.9, out=momentum)
                param.mul_(0.9)

        sweep()
        passes += seconds(sweep, device)
    return products, passes


def with_gradients(matrices: list[tuple[int, int]], device: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(device)) for shape in matrices]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(device)
    return params


def measure(matrices: list[tuple[int, int]], rounds: int, device: str) -> dict:
    builds = OPTIMIZERS | muon_peers.installed()
    params = with_gradients(matrices, device)
    gradients = [param.grad for param in params]
    optimizers = {
        name: build([torch.nn.Parameter(p.detach().clone()) for p in params]) for name, build in builds.items()
    }

    def step(optimizer: torch.optim.Optimizer) -> float:
        for param, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
            param.grad = gradient.clone()  # which some peers overwrite or take away
        taken = seconds(optimizer.step, device)
        optimizer.zero_grad()
        return taken

    for optimizer in optimizers.values():  # makes the state, warms the libraries
        step(optimizer)
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    rates, floors = [], []
    for _ in range(rounds):
        rates.append(gemm_rate(matrices, device))
        floors.append(floor(matrices, device))
        for name, optimizer in optimizers.items():
            times[name].append(step(optimizer))
    work, ours = flops(matrices), times["muloco Muon"]
    rows = {}
    for name, taken in times.items():
        rows[name] = {
            "milliseconds": 1e3 * statistics.median(taken),
            "time_beside_ours": statistics.median(t / own for t, own in zip(taken, ours, strict=True)),
        }
        if name != "torch AdamW":
            shares = (work / t / rate for t, rate in zip(taken, rates, strict=True))
            rows[name]["share_of_gemm_rate"] = statistics.median(shares)
    bounds = {
        "plain_products": statistics.median(work / p / rate for (p, _), rate in zip(floors, rates, strict=True)),
        "and_two_passes": statistics.median(work / (p + q) / rate for (p, q), rate in zip(floors, rates, strict=True)),
    }
    return {"gemm_gigaflops": statistics.median(rates) / 1e9, "share_of_gemm_rate": bounds, "optimizers": rows}


def orthogonality(matrices: list[tuple[int, int]], device: str) -> dict:
    """Least, greatest and root mean square distance from one, over one matrix of each shape."""
    distinct = sorted(set(matrices))
    found: dict[str, list[torch.Tensor]] = {"muloco Muon": [], "torch Muon": []}
    for shape in distinct:
        for name, values in found.items():
            param = torch.nn.Parameter(torch.zeros(shape, device=device))
            param.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
            if name == "torch Muon":
                optimizer = torch.optim.Muon([param], 1.0, weight_decay=0.0, momentum=0.0, nesterov=False)
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
            else:
                optimizer, scale = Muon([param], 1.0, momentum=0.0, adjust_lr="none"), 1.0
            optimizer.step()
            values.append(torch.linalg.svdvals(param.detach().cpu().double() / scale))
    return {
        name: {
            "least": min(float(v.min()) for v in values),
            "greatest": max(float(v.max()) for v in values),
            "rms_error": float((torch.cat(values) - 1).square().mean().sqrt()),
        }
        for name, values in found.items()
    }


def table(result: dict) -> str:
    lines = [
        f"{result['flavor']}: {result['matrices']} matrices, {result['elements']:,} elements, plain iteration "
        f"{result['gigaflops']:.0f} GFLOP; bf16 products of their sizes at {result['gemm_gigaflops']:.0f} GFLOP/s; "
        f"{result['machine']}, {result['clock']} time, load {result['load_average']:.1f} on {os.cpu_count()} cores",
        f"{'':18} {'ms a step':>10} {'x ours':>7} {'of GEMM':>8}   singular values of an update",
    ]
    for name, row in result["optimizers"].items():
        share = f"{row['share_of_gemm_rate']:8.2f}" if "share_of_gemm_rate" in row else " " * 8
        line = f"{name:18} {row['milliseconds']:10.1f} {row['time_beside_ours']:7.2f} {share}"
        if name in result["orthogonality"]:
            line += "   {least:.3f} to {greatest:.3f}, rms error {rms_error:.3f}".format(
                **result["orthogonality"][name]
            )
        lines.append(line)
    bounds = result["share_of_gemm_rate"]
    lines += [f"{'plain products':36} {bounds['plain_products']:8.2f}"]
    lines += [f"{'and two passes':36} {bounds['and_two_passes']:8.2f}"]
    missing = [package for package, version in result["peers"].items() if version is None]
    if missing:
        lines.append(f"not installed: {', '.join(missing)} (pip install 'muloco[bench]')")
    share = result["optimizers"]["muloco Muon"]["share_of_gemm_rate"]
    lines.append(f"bar: at least {BAR} of the GEMM rate: {'met' if share >= BAR else 'MISSED'} ({share:.2f})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flavor", default="150M", help="150M, 416M or any other")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each optimizer")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--ranks", type=_counts, help="counts of ranks, one CPU thread each, to shard over")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    size = flavor(chosen.flavor)
    matrices = shapes(size)
    if chosen.ranks:
        if chosen.device != "cpu" or chosen.threads != parser.get_default("threads"):
            parser.error("--ranks takes one CPU thread a rank: leave --device and --threads out")
        write(size.alias, "_ranks", muon_ranks.compare(size.alias, matrices, chosen.ranks, chosen.rounds))
        return
    device = torch.cuda.get_device_name() if chosen.device == "cuda" else f"{chosen.threads} CPU threads"
    result = {
        "command": f"python benchmarks/muon.py {' '.join(sys.argv[1:])}".strip(),
        "flavor": size.alias,
        "matrices": len(matrices),
        "elements": sum(rows * cols for rows, cols in matrices),
        "gigaflops": flops(matrices) / 1e9,
        "machine": f"{device}, {platform.machine()}, torch {torch.__version__}",
        "clock": "processor" if _counts_processor_time(chosen.device) else "wall",
        "rounds": chosen.rounds,
        "peers": muon_peers.versions(),
        "load_average": os.getloadavg()[0],
        **measure(matrices, chosen.rounds, chosen.device),
        "orthogonality": orthogonality(matrices, chosen.device),
    }
    assert result["elements"] == size.parameters_by_role["matrix"]
    print(table(result))
    write(size.alias, "" if chosen.device == "cpu" else f"_{chosen.device}", result)


def write(alias: str, suffix: str, result: dict) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{alias}{suffix}.json").write_text(json.dumps(result, indent=2) + "\n")


def _counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


if __name__ == "__main__":
    main()
