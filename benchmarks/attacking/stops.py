"""Stops processes of a run by SIGSTOP."""

import os
import random
import signal
import time

from attacking.live import LiveRun, wait_for
from attacking.registry import Seen, attack


@attack("stops", must="they go on to sync once it answers again", scene="crew")
def stop_the_lighthouse_for_20_seconds(run: LiveRun, rng: random.Random) -> Seen:
    """Stops the lighthouse for 20 seconds."""
    lighthouse = run.lighthouse()
    assert lighthouse is not None
    os.kill(lighthouse, signal.SIGSTOP)
    time.sleep(20)
    os.kill(lighthouse, signal.SIGCONT)
    return Seen()


@attack("stops", must="the supervisor replaces it, and all workers go on", scene="crew")
def stop_the_lighthouse_for_good(run: LiveRun, rng: random.Random) -> Seen:
    """Stops the lighthouse and never continues it."""
    lighthouse = run.lighthouse()
    assert lighthouse is not None
    os.kill(lighthouse, signal.SIGSTOP)
    since = time.time()
    replaced = wait_for(lambda: run.lighthouse() not in (None, lighthouse), 60)
    note = f"replaced after {time.time() - since:.0f} s"
    return Seen(note=note) if replaced else Seen(wrong=["it was not replaced within 60 s"])


@attack("stops", must="the others wait for it or go on; it takes part again", scene="crew")
def stop_a_worker_for_a_second(run: LiveRun, rng: random.Random) -> Seen:
    """Stops a worker for one second, which is below the heartbeat timeout."""
    return _stop(run, rng, 1)


@attack("stops", must="the others go on; it joins again without being killed", scene="crew")
def stop_a_worker_for_8_seconds(run: LiveRun, rng: random.Random) -> Seen:
    """Stops a worker for eight seconds, which is above all timeouts of a sync."""
    return _stop(run, rng, 8)


@attack("stops", must="the others go on within seconds, for as long as it stands still", scene="crew")
def stop_a_worker_for_25_seconds(run: LiveRun, rng: random.Random) -> Seen:
    """Stops a worker for 25 seconds."""
    return _stop(run, rng, 25)


def _stop(run: LiveRun, rng: random.Random, seconds: float) -> Seen:
    worker = rng.choice(sorted(run.expected))
    process = run.by_number()[worker]
    others = run.expected - {worker}
    os.kill(process, signal.SIGSTOP)
    since = time.time()
    time.sleep(seconds)
    within = len(run.whole_syncs(since, others))
    os.kill(process, signal.SIGCONT)
    wrong = [] if within or seconds < 10 else [f"workers {sorted(others)} had no sync for {seconds:g} s"]
    return Seen(wrong=wrong, note=f"worker {worker}; {within} syncs of the others meanwhile")
