"""A second supervisor in the folder of a live run."""

import random
import subprocess

from attacking.live import CONFIG, LiveRun, muloco, words
from attacking.registry import Seen, attack

MUST = "the second one is refused with status 2 in one line, and the first goes on"


@attack("two supervisors", must=MUST, scene="crew", short=True)
def a_fresh_second_supervisor(run: LiveRun, rng: random.Random) -> Seen:
    """Starts the same run once more."""
    return _second(run, muloco("train", str(CONFIG), *words(run.settings)))


@attack("two supervisors", must=MUST, scene="crew")
def a_second_supervisor_that_resumes(run: LiveRun, rng: random.Random) -> Seen:
    """Starts the same run with --resume while it is being trained."""
    return _second(run, muloco("train", str(run.root / "config.json"), "--resume"))


def _second(run: LiveRun, command: list[str]) -> Seen:
    try:
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, env=run.environment)
    except subprocess.TimeoutExpired:
        return Seen(wrong=["the second supervisor was let in: it has not ended within 60 s"])
    said = (second.stdout + second.stderr).strip()
    last = said.splitlines()[-1] if said else ""
    wrong = []
    if second.returncode != 2:
        wrong.append(f"status {second.returncode}: {said[-300:]}")
    if "Traceback" in said:
        wrong.append(f"a traceback instead of one line: {last}")
    return Seen(refused=last, wrong=wrong)
