"""Our exchange beside an all-reduce of the same numbers, on loopback; see `overhead.py`."""

import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing
from training_runs import machine

from muloco.launch.lighthouse import start_lighthouse
from muloco.outer.wire.store import loopback_store

GROUPS = (2, 4)
TENSORS, WIDTH = 16, 1024
"""The vector is that of so many matrices, so wide."""
TIMEOUT = timedelta(seconds=60)
EXCHANGE, GLOO = "our exchange", "gloo all_reduce"
ROUND, TORCHFT = "our round: meet, exchange, vote", "torchft: quorum, allreduce, should_commit"
COMPARISONS = ((EXCHANGE, GLOO), (ROUND, TORCHFT))


def measure(outputs: Path, *, rounds: int, elements: int) -> dict[str, Any]:
    """Median seconds of each way, for groups of 2 and 4 processes.

    Args:
        outputs: scratch folder.
        rounds: timed ones, after one that warms up.
        elements: fp32 numbers in each process's vector; a multiple of 16 x 1024.
    """
    load = os.getloadavg()[0]
    return {
        "groups": {str(size): _group(outputs / str(size), size, rounds, elements) for size in GROUPS},
        "elements": elements,
        "rounds": rounds,
        "load_average": load,
        **machine(1),
    }


def _group(folder: Path, size: int, rounds: int, elements: int) -> dict[str, Any]:
    folder.mkdir()
    lighthouses = [start_lighthouse(workers=size, log=folder / f"lighthouse-{name}.log") for name in ("a", "b")]
    try:
        addresses = [address for _, address in lighthouses]
        multiprocessing.spawn(_process, (size, addresses, str(folder), rounds, elements), nprocs=size)
    finally:
        for child, _ in lighthouses:
            child.end(grace_seconds=2)
    seconds = json.loads((folder / "seconds.json").read_text())
    result: dict[str, Any] = {
        name: {"seconds": statistics.median(taken), "runs": taken} for name, taken in seconds.items()
    }
    for ours, theirs in COMPARISONS:
        result[ours]["times_the_other"] = statistics.median(
            a / b for a, b in zip(seconds[ours], seconds[theirs], strict=True)
        )
    return result


def _process(rank: int, size: int, lighthouses: list[str], folder: str, rounds: int, elements: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "RUST_LOG": "warn"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    store = loopback_store()
    ways = _ways(rank, size, lighthouses, store, elements)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            taken = torch.tensor(way())
            dist.all_reduce(taken, dist.ReduceOp.MAX)
            if number:
                seconds[name].append(float(taken))
    if rank == 0:
        Path(folder, "seconds.json").write_text(json.dumps(seconds))
    dist.barrier()
    os._exit(0)  # threads of gloo and torchft may not survive Python's finalization


def _ways(
    rank: int, size: int, lighthouses: list[str], store: dist.TCPStore, elements: int
) -> dict[str, Callable[[], float]]:
    """Returns the functions to time, by name: each call averages the same numbers once, checks the mean and returns its
    seconds."""
    from torchft.manager import Manager
    from torchft.process_group import ProcessGroupGloo

    from muloco.outer.codecs.compression import Compression
    from muloco.outer.protocol.exchange import average
    from muloco.outer.wire.peer_group import GlooGroup
    from muloco.outer.wire.torchft import TorchftTransport

    transport = TorchftTransport(
        run="exchange",
        worker=rank,
        min_replica_size=size,
        lighthouse=lighthouses[0],
        rank=0,
        ranks=1,
        host="127.0.0.1",
        secret=b"a secret of a benchmark",
        group=GlooGroup(TIMEOUT),
        quorum_timeout=TIMEOUT,
        exchange_timeout=TIMEOUT,
    )
    manager = Manager(
        pg=ProcessGroupGloo(timeout=TIMEOUT),
        load_state_dict=None,
        state_dict=None,
        min_replica_size=size,
        use_async_quorum=False,
        timeout=TIMEOUT,
        quorum_timeout=TIMEOUT,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        lighthouse_addr=lighthouses[1],
        replica_id=f"allreduce_{rank:03d}",
        hostname="127.0.0.1",
        init_sync=False,
    )
    values = torch.arange(elements, dtype=torch.float32).remainder_(1001) * (rank + 1)
    expected = torch.arange(elements, dtype=torch.float32).remainder_(1001) * (size + 1) / 2
    rows = elements // WIDTH // TENSORS
    wire = Compression().wire({str(index): torch.empty(rows, WIDTH, device="meta") for index in range(TENSORS)})

    def timed(work: Callable[[], torch.Tensor]) -> float:
        dist.barrier()
        started = time.perf_counter()
        mean = work()
        seconds = time.perf_counter() - started
        torch.testing.assert_close(mean, expected)
        return seconds

    def exchange() -> float:
        this_round = transport.open(0)
        seconds = timed(lambda: average(this_round, values, wire, [1] * size))
        assert this_round.vote(True)
        return seconds

    def whole() -> torch.Tensor:
        this_round = transport.open(0)
        mean = average(this_round, values, wire, [1] * size)
        assert this_round.vote(True)
        return mean

    def gloo() -> torch.Tensor:
        mean = values.clone()  # ours leaves its input alone too
        dist.all_reduce(mean)
        return mean.div_(size)

    def torchft() -> torch.Tensor:
        manager.start_quorum(allow_heal=False)
        mean = values.clone()
        manager.allreduce(mean).wait()
        assert manager.should_commit()
        return mean

    return {EXCHANGE: exchange, GLOO: lambda: timed(gloo), ROUND: lambda: timed(whole), TORCHFT: lambda: timed(torchft)}


def table(result: dict[str, Any]) -> str:
    size = 4 * result["elements"]
    lines = [
        f"mean of {result['elements']:,} fp32 elements ({size / 1e6:.0f} MB) on loopback, 1 thread a process, "
        f"{result['cores']} cores, load {result['load_average']:.1f}",
        f"{'':44} {'K':>2} {'ms':>8} {'GB/s':>6} {'x the other':>12}",
    ]
    for workers, rows in result["groups"].items():
        for name in (name for pair in COMPARISONS for name in pair):
            row = rows[name]
            beside = f"{row['times_the_other']:12.2f}" if "times_the_other" in row else ""
            rate = size / row["seconds"] / 1e9
            lines.append(f"{name:44} {workers:>2} {1000 * row['seconds']:8.0f} {rate:6.2f} {beside}")
    lines.append("GB/s: bytes of one vector over the time; x the other: of the time of the line below")
    return "\n".join(lines)
