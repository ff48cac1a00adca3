"""What the outer loop and our trainer cost in tokens/s; see `overhead.py`."""

import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processor_time import ProcessorTime
from training_runs import (
    CHECKOUT,
    SETTINGS,
    machine,
    muloco,
    speed,
    speed_on_console,
    start,
    wait,
    warm_up_steps,
    words,
)

from muloco.runs.folder import RunFolder

BAR = 0.97
SYNC_STEPS = 30
STEPS = SYNC_STEPS + 1
"""One window and the step whose time the sync counts in."""
BEHIND = 2
"""Inner steps after those that are measured, so that the run's end is not."""
PER_WORKER = 8
"""Sequences a worker takes in one inner step."""
TOKENS = PER_WORKER * 256


@dataclass(frozen=True)
class Run:
    """One of the runs to compare."""

    config: str
    workers: int = 1
    sync: bool = False
    torchtitan: bool = False
    """Whether torchtitan's own Trainer is used."""

    def command(self, name: str, outputs: Path) -> list[str]:
        settings: dict[str, object] = {
            "run.name": name,
            "run.outputs": outputs,
            "training.steps": STEPS + BEHIND,
            "training.global_batch_size": PER_WORKER * self.workers,
            "training.local_batch_size": PER_WORKER,
            "fault_tolerance.group_size": self.workers,
            "fault_tolerance.semi_sync_method": "diloco" if self.sync else "none",
        }
        if not self.torchtitan:
            return muloco("train", self.config, settings)
        program = str(CHECKOUT / "benchmarks" / "plain_torchtitan.py")
        return [sys.executable, program, self.config, *words(SETTINGS | settings)]


MUON, ADAMW = "config/laptop/muon.py", "config/laptop/adamw.py"
ALONE = Run(MUON)


class Bench:
    """The runs of one invocation, in a scratch folder."""

    def __init__(self, outputs: Path, threads: int):
        self._outputs = outputs
        self._threads = threads
        self._count = 0

    def together(self, *runs: Run) -> list[dict[str, Any]]:
        """How fast runs were that share the machine at the same time."""
        names = [f"run{self._count + index}" for index in range(len(runs))]
        self._count += len(runs)
        children = [
            start(name, run.command(name, self._outputs), outputs=self._outputs, threads=self._threads)
            for run, name in zip(runs, names, strict=True)
        ]
        clocks = [
            ProcessorTime(
                self._outputs,
                child.name,
                workers=run.workers,
                last=STEPS,
                console=child.log if run.torchtitan else None,
            )
            for run, child in zip(runs, children, strict=True)
        ]
        wait(children, look=lambda: [clock.look() for clock in clocks])
        results, warm = [], warm_up_steps()
        for run, child, clock in zip(runs, children, clocks, strict=True):
            if run.torchtitan:
                result = speed_on_console(child.log.read_text(), tokens=TOKENS, last=STEPS, warm=warm)
            else:
                result = speed(RunFolder(self._outputs / child.name), last=STEPS, warm=warm)
            assert clock.seconds is not None
            results.append({**result, "processor_seconds": clock.seconds / (SYNC_STEPS * run.workers)})
        return results


def measure(outputs: Path, *, rounds: int, threads: int) -> dict[str, Any]:
    """All comparisons, in turns."""
    bench, loads = Bench(outputs, threads), []
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        loads.append(os.getloadavg()[0])
        _add(found, ("none beside K = 1", "K = 1"), bench.together(ALONE, Run(MUON, sync=True)))
        *both, workers = bench.together(ALONE, ALONE, Run(MUON, workers=2, sync=True))
        total = {
            "tokens_per_second": sum(one["tokens_per_second"] for one in both),
            "processor_seconds": statistics.mean(one["processor_seconds"] for one in both),
        }
        _add(found, ("none twice", "K = 2"), [total, workers])
        _add(found, ("torchtitan", "AdamW"), bench.together(Run(ADAMW, torchtitan=True), Run(ADAMW)))
    comparisons = [("K = 1", "none beside K = 1"), ("K = 2", "none twice"), ("AdamW", "torchtitan")]
    return {
        "comparisons": {name: _compare(found[name], found[base]) for name, base in comparisons},
        "runs": found,
        "rounds": rounds,
        "sync_steps": SYNC_STEPS,
        "flavor": "laptop",
        "tokens_a_step": TOKENS,
        "load_averages": loads,
        "bar": BAR,
        **machine(threads),
    }


def _add(found: dict[str, list], names: tuple[str, ...], results: list[dict[str, Any]]) -> None:
    for name, result in zip(names, results, strict=True):
        found.setdefault(name, []).append(result)


def _compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """How many tokens a second ours keeps: processor time beside ours, times the share of the time that the workers did
    not stand still. The work of a sync counts in both, so that the ratio is a little too small."""
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [b["processor_seconds"] / a["processor_seconds"] * a.get("running", 1.0) for a, b in pairs]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "processor_seconds": statistics.median(a["processor_seconds"] for a, _ in pairs),
        "beside": statistics.median(b["processor_seconds"] for _, b in pairs),
        "standing": 1 - statistics.median(a.get("running", 1.0) for a, _ in pairs),
        "wall_ratio": statistics.median(a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs),
        "wall_ratios": [a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs],
    }


TITLES = {
    "K = 1": "Muon, one worker with outer steps / without",
    "K = 2": "Muon, two workers over torchft / two without",
    "AdamW": "AdamW without outer steps / torchtitan's Trainer",
}


def table(result: dict[str, Any]) -> str:
    load = ", ".join(f"{value:.1f}" for value in result["load_averages"])
    lines = [
        f"flavor laptop, H = {SYNC_STEPS}, {result['threads_a_worker']} thread a worker, {result['cores']} cores; "
        f"load before each round: {load}",
        f"{'processor s an inner step':47} {'ours':>6} {'beside':>6} {'still':>6} {'ratio':>6} {'wall ratios':>12}",
    ]
    for name, title in TITLES.items():
        row = result["comparisons"][name]
        wall = f"{min(row['wall_ratios']):.2f} - {max(row['wall_ratios']):.2f}"
        lines.append(
            f"{title:47} {row['processor_seconds']:6.3f} {row['beside']:6.3f} {100 * row['standing']:5.1f}% "
            f"{row['ratio']:6.3f} {wall:>12}"
        )
    worst = min(row["ratio"] for row in result["comparisons"].values())
    lines.append(f"bar: every ratio at least {BAR}: {'met' if worst >= BAR else 'MISSED'} ({worst:.3f})")
    return "\n".join(lines)
