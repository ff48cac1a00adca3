"""One step of Muon on matrices that are sharded over the ranks of a mesh (FSDP2): ours, torch's, torchtitan's.

`python benchmarks/muon.py --ranks 2,4` runs this. Each rank is a process with one CPU thread, on gloo over loopback.
All optimizers take turns in one run. A step's time is that of the slowest rank, from a barrier on; ratios are medians
over the rounds, as other work on the machine comes and goes. Processor time is that of the busiest rank, gloo's threads
included.

The least that has to be moved: whoever orthogonalizes a matrix gets what it lacks of it, and gives the others their
parts of the result; both in bfloat16, as products are. That is 4 (S - 1) / S bytes an element on S ranks.
"""

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import muon_dist
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.multiprocessing import spawn
from torch.utils._python_dispatch import TorchDispatchMode

from muloco.pytorch import Muon

Params = list[tuple[str, nn.Parameter]]

OPTIMIZERS: dict[str, Callable[[Params], torch.optim.Optimizer]] = {
    "muloco Muon": lambda params: Muon(params_of(params), 0.02, weight_decay=0.01),
    "torch Muon": lambda params: torch.optim.Muon(
        params_of(params), 0.02, weight_decay=0.01, momentum=0.9, nesterov=False
    ),
    "torchtitan DistMuon": muon_dist.build,
}
BARS = {"torch Muon": 1.9, "torchtitan DistMuon": 1.0}
"""How many times as long as ours the others are to take, on two ranks."""


def params_of(params: Params) -> list[nn.Parameter]:
    return [param for _, param in params]


class Traffic(TorchDispatchMode):
    """Counts the bytes that collectives send from this rank to others."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # what it does on plain tensors is to be counted
        ranks, rank = dist.get_world_size(), dist.get_rank()
        name = func.overloadpacket.__name__
        if func.namespace == "_c10d_functional" and name == "all_gather_into_tensor":
            self.bytes += args[0].nbytes * (ranks - 1)
        elif func.namespace == "_c10d_functional" and name in ("all_reduce", "all_reduce_"):
            self.bytes += 2 * args[0].nbytes * (ranks - 1) // ranks
        elif func.namespace == "_c10d_functional" and name == "reduce_scatter_tensor":
            self.bytes += args[0].nbytes * (ranks - 1) // ranks
        elif func.namespace == "c10d" and name == "alltoall_base_":
            sizes = args[4]
            self.bytes += args[1].element_size() * (sum(sizes) - sizes[rank])
        elif "c10d" in func.namespace and name not in ("wait_tensor", "_wrap_tensor_autograd"):
            raise NotImplementedError(f"bytes of {func}")
        return func(*args, **(kwargs or {}))


def compare(flavor: str, shapes: list[tuple[int, int]], ranks: list[int], rounds: int) -> dict:
    """The result for each count of ranks; prints its table."""
    result = {
        "command": f"python benchmarks/muon.py {' '.join(sys.argv[1:])}",
        "flavor": flavor,
        "matrices": len(shapes),
        "elements": sum(rows * cols for rows, cols in shapes),
        "machine": f"{platform.machine()}, torch {torch.__version__}, torchtitan {metadata.version('torchtitan')}",
        "cores": os.cpu_count(),
        "rounds": rounds,
        "load_average": os.getloadavg()[0],
        "meshes": [measure(shapes, count, rounds) for count in ranks],
    }
    print(table(result))
    return result


def measure(shapes: list[tuple[int, int]], ranks: int, rounds: int) -> dict:
    """Measures each optimizer on so many processes."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (ranks, shapes, rounds, folder), nprocs=ranks)
        times = torch.load(Path(folder) / "times")
    least = sum(4 * rows * cols for rows, cols in shapes) * (ranks - 1) // ranks
    ours = times["muloco Muon"]["wall"]
    return {
        "ranks": ranks,
        "least_bytes": least,
        "optimizers": {
            name: {
                "milliseconds": 1e3 * statistics.median(found["wall"]),
                "time_beside_ours": statistics.median(t / own for t, own in zip(found["wall"], ours, strict=True)),
                "processor_milliseconds": 1e3 * statistics.median(found["processor"]),
                "bytes": found["bytes"],
            }
            for name, found in times.items()
        },
    }


def _rank(rank: int, ranks: int, shapes: list[tuple[int, int]], rounds: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("dp_shard",))
    optimizers = {name: build(_sharded(shapes, mesh)) for name, build in OPTIMIZERS.items()}
    times: dict[str, Any] = {name: {"wall": [], "processor": []} for name in optimizers}
    for name, optimizer in optimizers.items():
        optimizer.step()  # makes the state, warms the libraries
        with Traffic() as traffic:
            optimizer.step()
        sent = torch.tensor(traffic.bytes)
        dist.all_reduce(sent)
        times[name]["bytes"] = sent.item()
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            for clock, seconds in zip(("wall", "processor"), _step(optimizer.step), strict=True):
                times[name][clock].append(seconds)
    if rank == 0:
        torch.save(times, Path(folder) / "times")
    dist.barrier()
    os._exit(0)  # threads of gloo may still hold tensors


def _sharded(shapes: list[tuple[int, int]], mesh: DeviceMesh) -> Params:
    """Parameters with gradients, named as their layers are: seven matrices a layer."""
    generator = torch.Generator().manual_seed(0)
    scatter = partial(distribute_tensor, device_mesh=mesh, placements=[Shard(0)], src_data_rank=None)
    params = []
    for index, shape in enumerate(shapes):
        param = nn.Parameter(scatter(torch.randn(shape, generator=generator)))
        param.grad = scatter(torch.randn(shape, generator=generator))
        params.append((f"layers.{index // 7}.{index % 7}", param))
    return params


def _step(step: Callable[[], object]) -> list[float]:
    """Seconds of the slowest rank by the clock, and of the busiest by its processor."""
    dist.barrier()
    started, busy = time.perf_counter(), time.process_time()
    step()
    taken = torch.tensor([time.perf_counter() - started, time.process_time() - busy])
    dist.all_reduce(taken, dist.ReduceOp.MAX)
    return taken.tolist()


def table(result: dict) -> str:
    lines = [
        f"{result['flavor']}: {result['matrices']} matrices, {result['elements']:,} elements; {result['machine']}, "
        f"load {result['load_average']:.1f} on {result['cores']} cores"
    ]
    for found in result["meshes"]:
        lines += [
            f"{found['ranks']} ranks{'ms a step':>27} {'x ours':>7} {'processor ms':>13} {'MB moved':>9} {'x least':>8}"
        ]
        for name, row in found["optimizers"].items():
            lines.append(
                f"  {name:20} {row['milliseconds']:10.1f} {row['time_beside_ours']:7.2f} "
                f"{row['processor_milliseconds']:13.1f} {row['bytes'] / 1e6:9.1f} "
                f"{row['bytes'] / found['least_bytes']:8.2f}"
            )
        lines.append(f"  {'least':20} {found['least_bytes'] / 1e6:42.1f}")
        if found["ranks"] == 2:
            for name, bar in BARS.items():
                times = found["optimizers"][name]["time_beside_ours"]
                verdict = "met" if times >= bar else "MISSED"
                lines.append(f"  bar: {name} takes at least {bar} times as long as ours: {verdict} ({times:.2f})")
    return "\n".join(lines)
