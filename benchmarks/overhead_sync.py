"""What the outer loop and our trainer cost in tokens/s; see `overhead.py`."""

import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_runs import CHECKOUT, SETTINGS, machine, muloco, speed, speed_on_console, start, wait, words

from muloco.training.run_folder import RunFolder

BAR = 0.97
SYNC_STEPS = 30
STEPS = SYNC_STEPS + 1
"""One window and the step whose time the sync counts in."""
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
    """By torchtitan's own Trainer."""

    def command(self, name: str, outputs: Path) -> list[str]:
        settings: dict[str, object] = {
            "run.name": name,
            "run.outputs": outputs,
            "training.steps": STEPS,
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
        wait(children)
        return [
            speed_on_console(child.log.read_text(), tokens=TOKENS, last=STEPS)
            if run.torchtitan
            else speed(RunFolder(self._outputs / child.name), last=STEPS)
            for run, child in zip(runs, children, strict=True)
        ]


def measure(outputs: Path, *, rounds: int, threads: int) -> dict[str, Any]:
    """All comparisons, in turns, the order changing from round to round."""
    bench, loads = Bench(outputs, threads), []
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(rounds):
        loads.append(os.getloadavg()[0])
        _add(found, ("none beside K = 1", "K = 1"), bench.together(ALONE, Run(MUON, sync=True)))
        for kind in ("none twice", "K = 2") if number % 2 == 0 else ("K = 2", "none twice"):
            if kind == "K = 2":
                _add(found, (kind,), bench.together(Run(MUON, workers=2, sync=True)))
            else:
                both = bench.together(ALONE, ALONE)
                total = {key: sum(one[key] for one in both) for key in ("tokens_per_second", "typical")}
                _add(found, (kind,), [total])
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
    pairs = list(zip(ours, theirs, strict=True))
    result = {
        "typical": statistics.median(a["typical"] for a, _ in pairs),
        "beside": statistics.median(b["typical"] for _, b in pairs),
        "ratio": statistics.median(a["typical"] / b["typical"] for a, b in pairs),
        "ratios": [a["typical"] / b["typical"] for a, b in pairs],
        "whole_ratio": statistics.median(a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs),
    }
    if "sync_share" in ours[0]:
        result["sync_share"] = statistics.median(one["sync_share"] for one in ours)
    return result


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
        f"{'tokens/s':48} {'ours':>6} {'beside':>6} {'ratio':>6} {'(rounds)':>13} {'untrimmed':>9} {'in syncs':>8}",
    ]
    for name, title in TITLES.items():
        row = result["comparisons"][name]
        share = f"{100 * row['sync_share']:7.1f}%" if "sync_share" in row else ""
        rounds = f"({min(row['ratios']):.2f} - {max(row['ratios']):.2f})"
        line = f"{title:48} {row['typical']:6.0f} {row['beside']:6.0f} {row['ratio']:6.3f} {rounds:>13}"
        lines.append(f"{line} {row['whole_ratio']:9.2f} {share}".rstrip())
    worst = min(row["ratio"] for row in result["comparisons"].values())
    lines.append(f"bar: every ratio at least {BAR}: {'met' if worst >= BAR else 'MISSED'} ({worst:.3f})")
    return "\n".join(lines)
