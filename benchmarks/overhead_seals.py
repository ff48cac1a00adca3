"""What seals cost a round, on a fast and on a slow link; see `overhead.py`.

As a program of its own, `python benchmarks/overhead_seals.py WORKER WORKERS ADDRESS HOST ROUNDS ELEMENTS` is one of the
workers.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from shaped_link import shaped_network
from training_runs import environment, machine, wait
from worker_runs import RUN_SECRET, start_lighthouse

BAR = 0.02
GROUPS = (2, 4)
RATES = {"unshaped": None, "1 Gbit/s": 1000.0}
TENSORS, WIDTH = 16, 1024
TIMEOUT = timedelta(seconds=60)
KINDS = GMAC, SUMS, NONE = "GMACs", "sums", "none"


def measure(scratch: Path, *, rounds: int, elements: int) -> dict[str, Any]:
    """Median seconds of a round by rate and number of workers: with seals as they are, with those of device memory,
    and with none, in turns.

    Args:
        scratch: folder for logs.
        rounds: timed ones of each kind, after one of each that warms up.
        elements: fp32 numbers in each worker's vector; a multiple of 16 x 1024.
    """
    rows = [
        {"rate": rate, "workers": size, **_row(scratch / f"{rate}-{size}", megabits, size, rounds, elements)}
        for rate, megabits in RATES.items()
        for size in GROUPS
    ]
    return {"rows": rows, "elements": elements, "rounds": rounds, "bar": BAR, **machine(1)}


def _row(folder: Path, megabits: float | None, size: int, rounds: int, elements: int) -> dict[str, Any]:
    load = os.getloadavg()[0]
    with shaped_network(size, megabits=megabits) as network:
        address = start_lighthouse(network, size, folder / "lighthouse.log")
        logs = [folder / f"{worker}.log" for worker in range(size)]
        children = []
        for worker, log in enumerate(logs):
            words = (worker, size, address, network.address(worker), rounds, elements)
            command = [sys.executable, __file__, *map(str, words)]
            children.append(network.spawn(worker, command, log=log, environment=environment(1)))
        wait(children)
    taken = [json.loads(log.read_text().splitlines()[-1]) for log in logs]
    return {
        "load_average": load,
        "sync_seconds": _compare({kind: _over_workers(max, taken, kind, 0) for kind in KINDS}),
        "seconds": _compare({kind: _over_workers(max, taken, kind, 1) for kind in KINDS}),
        "processor_seconds": _compare({kind: _over_workers(sum, taken, kind, 2) for kind in KINDS}),
    }


def _over_workers(whole: Callable[..., float], taken: list[Any], kind: str, which: int) -> list[float]:
    """A figure of all workers together, for each round."""
    return [whole(one[which] for one in workers) for workers in zip(*(one[kind] for one in taken), strict=True)]


def _compare(runs: dict[str, list[float]]) -> dict[str, Any]:
    medians = {kind: statistics.median(values) for kind, values in runs.items()}
    ratios = {
        kind: statistics.median(a / b for a, b in zip(runs[kind], runs[NONE], strict=True)) for kind in (GMAC, SUMS)
    }
    return {**medians, "times_none": ratios, "runs": runs}


def work(worker: int, size: int, address: str, host: str, rounds: int, elements: int) -> dict[str, Any]:
    """One worker; by kind, for each round: the seconds of the sync (quorum, headers, exchange, vote, outer step), and
    the seconds and processor seconds of its exchange and vote."""
    from muloco.outer.codecs.compression import Compression
    from muloco.outer.protocol import seal
    from muloco.outer.protocol.exchange import average, gather_bytes
    from muloco.outer.wire.peer_group import GlooGroup
    from muloco.outer.wire.torchft import TorchftTransport

    torch.set_num_threads(1)
    seal._BATCH = seal.BLOCK  # products of sums that a processor's cache holds
    transport = TorchftTransport(
        run="seals",
        worker=worker,
        min_replica_size=size,
        lighthouse=address,
        rank=0,
        ranks=1,
        host=host,
        secret=RUN_SECRET.encode(),
        group=GlooGroup(TIMEOUT),
        quorum_timeout=TIMEOUT,
        exchange_timeout=TIMEOUT,
    )
    values = torch.arange(elements, dtype=torch.float32).remainder_(1001) * (worker + 1)
    rows = elements // WIDTH // TENSORS
    wire = Compression().wire({str(index): torch.empty(rows, WIDTH, device="meta") for index in range(TENSORS)})
    anchor, momentum = torch.zeros(elements), torch.zeros(elements)
    taken: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    for number in range(rounds + 1):
        for kind in KINDS if number % 2 else reversed(KINDS):
            began = time.perf_counter()
            this_round = transport.open(number)
            secret = transport.secret_hash
            secret.of = secret.sums if kind == SUMS else secret.gmac  # type: ignore[method-assign]
            if kind == NONE:
                this_round._seal = lambda outgoing: None  # type: ignore[method-assign]
                this_round._compare_seals = lambda name: None  # type: ignore[method-assign]
            gather_bytes(this_round, b"all are here")
            started, processor = time.perf_counter(), time.process_time()
            mean = average(this_round, values, wire, [1] * size)
            assert this_round.vote(True)
            exchanged = time.perf_counter() - started, time.process_time() - processor
            momentum.mul_(0.6).add_(mean)
            anchor.add_(mean, alpha=-0.7).add_(momentum, alpha=-0.42)
            if number:
                taken[kind].append((time.perf_counter() - began, *exchanged))
    return taken


FIGURES = {
    "sync_seconds": "ms of a sync",
    "seconds": "ms of exchange and vote",
    "processor_seconds": "processor ms of all workers",
}


def table(result: dict[str, Any]) -> str:
    lines = [
        f"syncs of {result['elements']:,} fp32 elements ({4 * result['elements'] / 1e6:.0f} MB), 1 thread a worker, "
        f"{result['cores']} cores; medians of {result['rounds']} rounds",
        f"{'':15}" + "".join(f" {text:>34}" for text in FIGURES.values()),
        f"{'link':12} {'K':>2}" + len(FIGURES) * f" {GMAC:>13} {SUMS:>13} {NONE:>6}" + f" {'load':>5}",
    ]
    for row in result["rows"]:
        line = f"{row['rate']:12} {row['workers']:>2}"
        for figures in (row[name] for name in FIGURES):
            for kind in (GMAC, SUMS):
                line += f" {1000 * figures[kind]:6.1f} {100 * (figures['times_none'][kind] - 1):+5.1f}%"
            line += f" {1000 * figures[NONE]:6.1f}"
        lines.append(f"{line} {row['load_average']:5.1f}")
    slow = max(row["sync_seconds"]["times_none"][GMAC] for row in result["rows"] if RATES[row["rate"]])
    lines.append("%: median over the rounds of how much longer than with none")
    lines.append(
        f"bar: on a shaped link a sync takes at most {100 * BAR:.0f} % longer: "
        f"{'met' if slow <= 1 + BAR else 'MISSED'} ({100 * (slow - 1):+.1f} %)"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    worker, size, address, host, rounds, elements = sys.argv[1:]
    print(json.dumps(work(int(worker), int(size), address, host, int(rounds), int(elements))), flush=True)
    os._exit(0)  # threads of gloo and torchft may not survive Python's finalization
