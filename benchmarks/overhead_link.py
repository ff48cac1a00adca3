"""What overlap buys on a slow link; see `overhead.py`."""

import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shaped_link import shaped_network
from training_runs import machine, speed
from worker_runs import train

BAR = 0.8
CONFIG = "config/laptop/muloco.py"
WORKERS = 2
SYNC_STEPS = 30
STEPS = SYNC_STEPS + 1
TAU = 3


@dataclass(frozen=True)
class Variant:
    """One way to train; `settings` are overrides of the config."""

    name: str
    shaped: bool
    settings: dict[str, object] = field(default_factory=dict)


def overlapped(fragments: int) -> dict[str, object]:
    return {"fault_tolerance.fragment_sync_delay": TAU, "fault_tolerance.num_fragments": fragments}


UNSHAPED = Variant("unshaped, tau = 0", False)
VARIANTS = (
    UNSHAPED,
    Variant("tau = 0", True),
    Variant(f"tau = {TAU}", True, overlapped(1)),
    Variant(f"tau = {TAU}, J = 3", True, overlapped(3)),
)


def measure(outputs: Path, *, rounds: int, threads: int, exchange_steps: float, megabits: float | None) -> dict:
    """All variants in turns. The link is chosen after a first unshaped run.

    Args:
        outputs: scratch folder.
        rounds: of all variants.
        threads: of each worker.
        exchange_steps: inner steps in whose time the link carries one dense exchange.
        megabits: rate of the link, in its place.
    """
    loads: list[float] = []
    found: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in VARIANTS}
    count, measured = 0, []
    for number in range(rounds):
        loads.append(os.getloadavg()[0])
        for variant in VARIANTS if number % 2 == 0 else (UNSHAPED, *VARIANTS[:0:-1]):
            count += 1
            rate = megabits if variant.shaped else None
            with shaped_network(WORKERS, megabits=rate) as network:
                if variant.shaped and len(measured) < rounds:
                    measured.append(network.measured_megabits())
                settings = {"training.steps": STEPS, "run.name": f"run{count}", **variant.settings}
                folder = train(network, CONFIG, settings, outputs=outputs, threads=threads)
            found[variant.name].append(speed(folder, last=STEPS))
            if megabits is None:
                first = found[UNSHAPED.name][0]
                megabits = first["bytes_a_sync"] * 8 / 1e6 / (exchange_steps * first["step_seconds"])
    assert megabits is not None
    unshaped = found[UNSHAPED.name]
    return {
        "variants": {name: _row(rows, unshaped) for name, rows in found.items()},
        "megabits": megabits,
        "measured_megabits": statistics.median(measured),
        "exchange_seconds": unshaped[0]["bytes_a_sync"] * 8 / 1e6 / megabits,
        "bytes_a_sync": unshaped[0]["bytes_a_sync"],
        "runs": found,
        "rounds": rounds,
        "workers": WORKERS,
        "sync_steps": SYNC_STEPS,
        "tau": TAU,
        "flavor": "laptop",
        "load_averages": loads,
        "bar": BAR,
        **machine(threads),
    }


def _row(rows: list[dict[str, Any]], unshaped: list[dict[str, Any]]) -> dict[str, float]:
    result = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    pairs = zip(rows, unshaped, strict=True)
    return result | {"kept": statistics.median(a["running"] / b["running"] for a, b in pairs)}


def table(result: dict[str, Any]) -> str:
    load = ", ".join(f"{value:.1f}" for value in result["load_averages"])
    lines = [
        f"{WORKERS} workers, flavor laptop, H = {SYNC_STEPS}; link of {result['megabits']:.0f} Mbit/s "
        f"(a plain transfer: {result['measured_megabits']:.0f}), "
        f"which needs {result['exchange_seconds']:.2f} s for a dense exchange",
        f"{result['threads_a_worker']} thread a worker, {result['cores']} cores; load before each round: {load}",
        f"{'':20} {'kept':>6} {'tokens/s':>9} {'s a step':>9} {'s waited':>9} {'s hidden':>9} {'share':>8} {'skew':>7}",
    ]
    for name, row in result["variants"].items():
        lines.append(
            f"{name:20} {row['kept']:6.3f} {row['tokens_per_second']:9.0f} {row['step_seconds']:9.3f} "
            f"{row['waited']:9.2f} {row['hidden']:9.2f} {100 * row['hidden_share']:7.1f}% "
            f"{row['skew']:7.2f}"
        )
    worst = min(row["hidden_share"] for name, row in result["variants"].items() if f"tau = {TAU}" in name)
    lines.append(
        f"bar: at least {100 * BAR:.0f} % of an exchange hidden at tau = {TAU}: "
        f"{'met' if worst >= BAR else 'MISSED'} ({100 * worst:.1f} %)"
    )
    return "\n".join(lines)
