"""What compression saves on a slow link, and costs on a fast one; see `compression.py`.

As a program of its own, `python benchmarks/compression_link.py RANK ADDRESS HOST ROUNDS` is one of the two workers.
"""

import json
import math
import os
import statistics
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from shaped_link import shaped_network
from training_runs import environment, machine, speed, wait
from worker_runs import RUN_SECRET, start_lighthouse, train

from muloco.model.flavors import flavor
from muloco.outer.codecs import build_codec
from muloco.outer.codecs.compression import Compression, Wire
from muloco.outer.protocol.exchange import average, bytes_sent, gather_bytes

WORKERS = 2
RATES = {"100 Mbit/s": 100.0, "1 Gbit/s": 1000.0, "unshaped": None}
ROWS = 24_576
"""Rows of the embedding; with one layer, this is a tenth of the 150M flavor."""
TIMEOUT = timedelta(seconds=120)
WAYS: dict[str, dict[str, Any]] = {
    "fp32": {"kind": "none"},
    "statistical 8 bits": {"kind": "statistical", "bits": 8},
    "statistical 4 bits": {"kind": "statistical", "bits": 4},
    "statistical 2 bits": {"kind": "statistical", "bits": 2},
    "lloyd_max 4 bits": {"kind": "lloyd_max", "bits": 4},
    "lloyd_max 2 bits": {"kind": "lloyd_max", "bits": 2},
    "topk 10 %": {"kind": "topk", "fraction": 0.1},
    "topk 1 %": {"kind": "topk", "fraction": 0.01},
}


def wires() -> dict[str, Wire]:
    """Returns the forms in which the same tensors are sent, by name."""
    size = flavor("150M")
    width, inner = size.width, size.feed_forward_width
    shapes = [(ROWS, width), *4 * [(width, width)], (inner, width), (width, inner), (inner, width)]
    tensors = {str(number): torch.empty(shape, device="meta") for number, shape in enumerate(shapes)}
    return {name: Compression(codec=build_codec(**chosen)).wire(tensors) for name, chosen in WAYS.items()}


def measure(scratch: Path, *, rounds: int) -> dict[str, Any]:
    """Median seconds of an exchange by rate and way, all ways in turns.

    Args:
        scratch: folder for logs.
        rounds: timed ones, after one that warms up.
    """
    elements = sum(map(math.prod, next(iter(wires().values())).shapes))
    result: dict[str, Any] = {
        "elements": elements,
        "elements_150M": flavor("150M").parameters,
        "workers": WORKERS,
        "rounds": rounds,
        "rates": {},
        **machine(1),
    }
    for name, megabits in RATES.items():
        load = os.getloadavg()[0]
        with shaped_network(WORKERS, megabits=megabits) as network:
            measured = network.measured_megabits()
            address = start_lighthouse(network, WORKERS, scratch / f"lighthouse-{megabits}.log")
            children, logs = [], [scratch / f"{megabits}-{worker}.log" for worker in range(WORKERS)]
            for worker, log in enumerate(logs):
                command = [sys.executable, __file__, str(worker), address, network.address(worker), str(rounds)]
                children.append(network.spawn(worker, command, log=log, environment=environment(1)))
            wait(children)
        seconds = json.loads(logs[0].read_text().splitlines()[-1])
        result["rates"][name] = {
            "megabits": megabits,
            "measured_megabits": measured,
            "load_average": load,
            "ways": {
                way: {
                    "bytes": bytes_sent(wire, WORKERS, 0),
                    "seconds": statistics.median(seconds[way]),
                    "runs": seconds[way],
                    "formula": bytes_sent(wire, WORKERS, 0) * 8 / 1e6 / megabits if megabits else None,
                }
                for way, wire in wires().items()
            },
        }
    return result


def work(rank: int, address: str, host: str, rounds: int) -> dict[str, list[float]]:
    """One worker; the seconds of each round by way, those of the slower worker."""
    from muloco.outer.wire.peer_group import GlooGroup
    from muloco.outer.wire.torchft import TorchftTransport

    torch.set_num_threads(1)
    transport = TorchftTransport(
        run="link",
        worker=rank,
        min_replica_size=WORKERS,
        lighthouse=address,
        rank=0,
        ranks=1,
        host=host,
        secret=RUN_SECRET.encode(),
        group=GlooGroup(TIMEOUT),
        quorum_timeout=TIMEOUT,
        exchange_timeout=TIMEOUT,
    )
    ways = wires()
    values = 1e-3 * torch.randn(
        sum(map(math.prod, next(iter(ways.values())).shapes)), generator=torch.Generator().manual_seed(rank)
    )
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, wire in ways.items():
            this_round = transport.open(number)
            gather_bytes(this_round, b"both are here")
            started = time.perf_counter()
            average(this_round, values, wire, [1] * WORKERS)
            taken = time.perf_counter() - started
            slower = max(float(said) for said in gather_bytes(this_round, str(taken).encode()))
            assert this_round.vote(True)
            if number:
                seconds[name].append(slower)
    return seconds


def table(result: dict[str, Any]) -> str:
    scale = result["elements_150M"] / result["elements"]
    lines = [
        f"mean of {result['elements']:,} elements ({scale:.1f} times less than 150M), K = {WORKERS}, "
        f"1 thread a worker, {result['cores']} shared cores; s of an exchange, median of {result['rounds']} rounds",
    ]
    for rate, found in result["rates"].items():
        lines.append(
            f"{rate} (a plain transfer: {found['measured_megabits']:.0f} Mbit/s), load {found['load_average']:.1f}"
        )
        lines.append(f"  {'':20} {'MB sent':>8} {'s':>8} {'bytes / rate':>13} {'times fp32':>11} {'150M, s':>9}")
        dense = found["ways"]["fp32"]["seconds"]
        for way, row in found["ways"].items():
            formula = f"{row['formula']:13.2f}" if row["formula"] else f"{'':13}"
            lines.append(
                f"  {way:20} {row['bytes'] / 1e6:8.2f} {row['seconds']:8.2f} {formula} "
                f"{row['seconds'] / dense:11.2f} {row['seconds'] * scale:9.1f}"
            )
    lines.append("150M, s: scaled by the number of elements, not measured")
    return "\n".join(lines)


CONFIG = "config/laptop/muloco.py"
SYNC_STEPS, TAU, FRAGMENTS = 30, 3, 3
ALL_REDUCE_STEPS = 10
"""Inner steps in whose time the link carries an all-reduce of fp32 gradients."""
KEPT, HIDDEN = 0.95, 0.8
STREAMING = {
    "compression.kind": "lloyd_max",
    "compression.bits": 4,
    "compression.error_feedback": True,
    "fault_tolerance.fragment_sync_delay": TAU,
    "fault_tolerance.num_fragments": FRAGMENTS,
}


def measure_streaming(outputs: Path, *, rounds: int) -> dict[str, Any]:
    """4-bit streaming on a link on which an all-reduce a step would take ten times the compute, beside the same without
    shaping, in turns."""
    found: dict[str, list[dict[str, Any]]] = {"unshaped": [], "shaped": []}
    megabits, loads = 0.0, []
    elements = flavor("laptop").parameters
    for number in range(rounds):
        loads.append(os.getloadavg()[0])
        for name, rows in found.items():
            with shaped_network(WORKERS, megabits=megabits if name == "shaped" else None) as network:
                settings = {"training.steps": SYNC_STEPS + 1, "run.name": f"{name}{number}", **STREAMING}
                folder = train(network, CONFIG, settings, outputs=outputs, threads=1)
            rows.append(speed(folder, last=SYNC_STEPS + 1))
            if not megabits:
                megabits = 4 * elements * 8 / 1e6 / (ALL_REDUCE_STEPS * rows[0]["step_seconds"])
    pairs = zip(found["shaped"], found["unshaped"], strict=True)
    return {
        "megabits": megabits,
        "kept": statistics.median(a["running"] / b["running"] for a, b in pairs),
        "hidden_share": statistics.median(row["hidden_share"] for row in found["shaped"]),
        "runs": found,
        "rounds": rounds,
        "sync_steps": SYNC_STEPS,
        "tau": TAU,
        "fragments": FRAGMENTS,
        "settings": STREAMING,
        "load_averages": loads,
        **machine(1),
    }


def streaming_table(result: dict[str, Any]) -> str:
    met = result["kept"] >= KEPT and result["hidden_share"] >= HIDDEN
    lines = [
        f"{WORKERS} workers, flavor laptop, H = {SYNC_STEPS}, J = {FRAGMENTS}, tau = {TAU}, 4-bit lloyd_max with error",
        f"feedback, link of {result['megabits']:.1f} Mbit/s: {'met' if met else 'MISSED'}",
        f"kept {100 * result['kept']:.1f} % of the speed without shaping (bar: {100 * KEPT:.0f})",
        f"hidden {100 * result['hidden_share']:.1f} % of the exchanges (bar: {100 * HIDDEN:.0f})",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(work(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))), flush=True)
    os._exit(0)  # threads of gloo and torchft may not survive Python's finalization
