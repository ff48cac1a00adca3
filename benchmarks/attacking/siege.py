"""A process on the same machine, without the secret, talks to the lighthouse of a live run for a while."""

import random
import subprocess
import sys
import time
from pathlib import Path

from attacking.live import LiveRun
from attacking.registry import Seen, attack
from attacking.strangers import address_of

MUST = (
    "the run goes on when it has left, with equal anchors (users of the same machine can disturb it, docs/network.md)"
)
SECONDS = 30
"""Three times the straggler timeout, half the quorum timeout."""


def _besieged(run: LiveRun, *kinds: str) -> Seen:
    program = [sys.executable, str(Path(__file__).with_name("besieger.py")), address_of(run), str(SECONDS), *kinds]
    since = time.time()
    subprocess.run(program, stderr=subprocess.DEVNULL, env=run.environment, timeout=SECONDS + 60)
    count = len(run.whole_syncs(since))
    return Seen(note=f"{count} syncs of all others in {time.time() - since:.0f} s")


@attack("strangers", must=MUST, scene="gap")
def a_stranger_that_is_late_for_ever(run: LiveRun, rng: random.Random) -> Seen:
    """A stranger sends the lighthouse signs of life and joins no sync, so that all wait for it."""
    return _besieged(run, "late")


@attack("strangers", must=MUST, scene="gap")
def a_stranger_with_a_store_that_never_answers(run: LiveRun, rng: random.Random) -> Seen:
    """A stranger joins every sync as the first member, whose store all others use, and this store never answers."""
    return _besieged(run, "store")


@attack("strangers", must=MUST, scene="gap")
def a_stranger_that_torchft_takes_for_the_newest(run: LiveRun, rng: random.Random) -> Seen:
    """A stranger joins every sync at a far higher step of torchft, and nothing listens at its address."""
    return _besieged(run, "ahead")


@attack("strangers", must=MUST, scene="gap")
def a_stranger_at_whose_address_nobody_listens(run: LiveRun, rng: random.Random) -> Seen:
    """A stranger joins every sync with addresses at which nothing listens."""
    return _besieged(run, "gone")
