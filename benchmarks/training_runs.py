"""Short training runs as a user starts them, and how fast they were by their run folders.

The first inner step is left out: it warms caches and libraries. On a GPU the second one is left out as well, because it
may record a CUDA graph. What a sync takes counts in the step after it. The clock starts and ends at the line of a step,
for which the host has waited for the step's loss and gradient norm, on a GPU as on a CPU.
"""

import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from muloco.launch.processes import Child
from muloco.runs.folder import RunFolder, read_metrics

CHECKOUT = Path(__file__).parents[1]
SETTINGS: dict[str, object] = {
    "training.global_batch_size": 16,
    "validation.freq": 1_000_000,
    "validation.sequences": 8,
    "checkpoint.enable": False,
    "metrics.tensorboard": False,
    "metrics.log_freq": 1,
}
"""Validation before the first and after the last step alone; no checkpoints."""
POLL_SECONDS = 0.1
LOG_LINES = 30
"""Number of lines of a failed run's log that are shown."""


def words(settings: Mapping[str, object]) -> list[str]:
    """`{"training.steps": 3}` as `--training.steps 3`."""
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def muloco(command: str, config: str, settings: Mapping[str, object]) -> list[str]:
    """`muloco COMMAND CONFIG ...` with this checkout's package."""
    return [sys.executable, "-m", "muloco", command, config, *words(SETTINGS | dict(settings))]


def environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(CHECKOUT)}


def start(name: str, command: Sequence[str], *, outputs: Path, threads: int) -> Child:
    """Starts a run or a part of one on this machine."""
    log = outputs / f"{name}.log"
    return Child(name, command, log=log, environment=environment(threads), on_line=lambda line: None)


def wait(children: Iterable[Child], *, seconds: float = 900, look: Callable[[], None] = lambda: None) -> None:
    """Until all have ended well, calling `look` meanwhile; else ends them and says why.

    Raises:
        RuntimeError: one failed or took too long.
    """
    children = list(children)
    deadline = time.monotonic() + seconds
    try:
        while any(child.status is None for child in children):
            failed = [child for child in children if child.status]
            if failed or time.monotonic() > deadline:
                break
            look()
            time.sleep(POLL_SECONDS)
        for child in children:
            if child.status is None and not any(other.status for other in children):
                raise RuntimeError(f"{child.name} did not end within {seconds:g} s")
            if child.status:
                reason = child.reason()  # waits for the rest of the log
                end = "".join(child.log.read_text().splitlines(keepends=True)[-LOG_LINES:])
                raise RuntimeError(f"{child.name} failed: {reason}; its log ends with\n{end}")
    finally:
        for child in children:
            child.end(grace_seconds=5)


def warm_up_steps() -> int:
    """Inner steps that are left out at the start of a run on this machine."""
    import torch

    return 2 if torch.cuda.is_available() else 1


def speed(folder: RunFolder, *, last: int, warm: int = 1) -> dict[str, Any]:
    """How fast a run was in its inner steps behind the first `warm`, up to `last`, the syncs before `last` included.

    Returns:
        tokens_per_second (of all workers together), step_seconds (median of the inner steps without a sync) and, where
        there are syncs, for the worker that came last to each: waited and hidden (seconds a sync), hidden_share (of the
        rounds' time) and running (share of the time that inner steps did not stand still, all of them taken as long as
        the median one). What the others waited longer, for the last one, is skew (seconds a sync and worker): on shared
        cores it is chance. Besides, bytes_a_sync.
    """
    lines = read_metrics(folder)
    if restarted := {line["worker"] for line in lines if line["attempt"] > 1}:
        raise RuntimeError(f"workers {sorted(restarted)} were lost and started again: there is nothing to compare")
    syncs = [line for line in lines if line.get("event") == "sync" and warm <= line["step"] < last]
    rates, plain, steps = [], [], 0.0
    for worker in sorted({line["worker"] for line in lines}):
        training = {line["step"]: line for line in lines if line["worker"] == worker and "loss" in line}
        synced = {line["step"] for line in syncs if line["worker"] == worker}
        seconds = {step: taken(training, step) for step in range(warm + 1, last + 1)}
        unsynced = [duration for step, duration in seconds.items() if step - 1 not in synced]
        rates.append((training[last]["tokens"] - training[warm]["tokens"]) / sum(seconds.values()))
        plain += unsynced
        steps += statistics.median(unsynced) * len(seconds)
    result = {"tokens_per_second": sum(rates), "step_seconds": statistics.median(plain)}
    if syncs:
        rounds: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for line in syncs:
            rounds.setdefault((line["step"], line["fragment"]), []).append(line)
        last_ones = [min(lines, key=lambda line: line["seconds_waited"]) for lines in rounds.values()]
        waited, hidden = (sum(line[key] for line in last_ones) for key in ("seconds_waited", "seconds_hidden"))
        all_waited = sum(line["seconds_waited"] for line in syncs)
        result |= {
            "running": steps / (steps + len(rates) * waited),
            "waited": waited / len(rounds),
            "hidden": hidden / len(rounds),
            "hidden_share": hidden / (hidden + waited),
            "skew": all_waited / len(syncs) - waited / len(rounds),
            "bytes_a_sync": sum(line["bytes_sent"] for line in syncs) / len(syncs),
        }
    return result


def speed_on_console(log: str, *, tokens: int, last: int, warm: int = 1) -> dict[str, Any]:
    """The same of torchtitan's console, on which every inner step of `tokens` tokens has a line; without syncs."""
    rates = {int(step): float(tps.replace(",", "")) for step, tps in re.findall(r"step: +(\d+) .*tps: ([\d,]+)", log)}
    seconds = [tokens / rates[step] for step in range(warm + 1, last + 1)]
    return {"tokens_per_second": tokens * len(seconds) / sum(seconds), "step_seconds": statistics.median(seconds)}


def taken(training: Mapping[int, dict[str, Any]], step: int) -> float:
    """Seconds of an inner step, from the log line before it to its own."""
    return (training[step]["tokens"] - training[step - 1]["tokens"]) / training[step]["tokens_per_second"]


def machine(threads: int) -> dict[str, Any]:
    """Describes the machine on which the figures were taken, for the JSON."""
    import torch

    return {
        "cores": len(os.sched_getaffinity(0)),
        "threads_a_worker": threads,
        "architecture": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
