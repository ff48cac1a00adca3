"""Signals to the supervisor, as an operator, a terminal or a job scheduler sends them."""

import random
import signal
import time

from attacking.live import LiveRun
from attacking.registry import Ending, attack

RESUMES = "it saves a checkpoint, names the command that resumes it, and --resume goes on from there"


@attack("signals", must=RESUMES, scene="ends")
def sigterm(run: LiveRun, rng: random.Random) -> Ending:
    """Sends SIGTERM."""
    run.signal(signal.SIGTERM)
    return Ending(statuses=(128 + signal.SIGTERM,), says=r"--resume")


@attack("signals", must=RESUMES, scene="ends")
def sighup(run: LiveRun, rng: random.Random) -> Ending:
    """Sends SIGHUP, as a terminal that is closed does."""
    run.signal(signal.SIGHUP)
    return Ending(statuses=(128 + signal.SIGHUP,), says=r"--resume")


@attack(
    "signals", must="it ends at once and leaves no process; --resume goes on from the newest checkpoint", scene="ends"
)
def sigint_twice(run: LiveRun, rng: random.Random) -> Ending:
    """Sends SIGINT twice within half a second."""
    run.signal(signal.SIGINT)
    time.sleep(0.5)
    if run.status is None:
        run.signal(signal.SIGINT)
    return Ending(statuses=(130, 1, -signal.SIGINT), says=r"")
