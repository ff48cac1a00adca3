"""How long all runs will take, from a short measurement of this machine."""

import time
from collections import Counter

from muloco.reproduce.design import FLAVOR, SEEDS, Design, Setting, Size
from muloco.reproduce.search import Losses

START_SECONDS = 12.0
"""Seconds of a run before its first step and after its last one."""
STEP_SECONDS = 0.02
"""Seconds of a worker's inner step that do not depend on its number of tokens."""


def tokens_per_second(size: Size) -> float:
    """Measures for some seconds the speed of forward and backward passes on one thread of this machine."""
    import torch

    from muloco.model import build

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = build(FLAVOR, device="cpu", seq_len=size.seq_len)
    tokens = torch.randint(0, 256, (4, size.seq_len))
    times = []
    for _ in range(6):
        started = time.perf_counter()
        torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        times.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return tokens.numel() / min(times)


def planned_seconds(design: Design, losses: Losses, rate: float) -> tuple[int, float, float]:
    """Returns the number of runs that are left at least, and the seconds of processor time that they take at least and
    at most, where every search for a learning rate goes on as far as it may."""
    done = Counter(trial.setting for trial in losses)
    runs, least, most = 0, 0.0, 0.0
    for setting in design.settings:
        searched, beyond = (0, 0) if setting.like else (2, design.size.extensions)
        left = max(0, searched + len(SEEDS) - done[setting])
        seconds = _seconds(setting, design.size, rate)
        runs += left
        least += left * seconds
        most += max(0, searched + len(SEEDS) + beyond - done[setting]) * seconds if left else 0.0
    return runs, least, most


def _seconds(setting: Setting, size: Size, rate: float) -> float:
    steps = setting.fields.get("training.steps", size.steps) * setting.workers
    return START_SECONDS + STEP_SECONDS * steps + size.tokens / rate


def span(least: float, most: float) -> str:
    """Between two numbers of seconds, in hours or minutes: `about 12 minutes`, `1.5 to 3.2 hours`."""
    unit, size, digits = ("hours", 3600, 1) if most >= 5400 else ("minutes", 60, 0)
    shortest, longest = (f"{max(seconds / size, 1 if size == 60 else 0):.{digits}f}" for seconds in (least, most))
    if shortest != longest:
        return f"{shortest} to {longest} {unit}"
    return f"about {longest} {'minute' if longest == '1' else unit}"
