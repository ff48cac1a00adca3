"""Processes of a run are killed with SIGKILL."""

import os
import random
import signal
import time

from attacking.live import LiveRun, wait_for
from attacking.registry import Ending, Seen, attack

COMES_BACK = "killed workers come back, and all workers sync with equal anchors"


@attack("kills", must=COMES_BACK, scene="crew", short=True)
def kill_a_worker(run: LiveRun, rng: random.Random) -> Seen:
    """Kills a worker at a random moment."""
    time.sleep(rng.uniform(0, 1.5))
    return _kill(run, rng.sample(sorted(run.expected), 1))


@attack("kills", must=COMES_BACK, scene="crew")
def kill_two_workers(run: LiveRun, rng: random.Random) -> Seen:
    """Kills two of three workers within 50 ms, at a random moment."""
    time.sleep(rng.uniform(0, 1.5))
    return _kill(run, rng.sample(sorted(run.expected), 2))


@attack("kills", must=COMES_BACK, scene="crew")
def kill_a_worker_that_joins(run: LiveRun, rng: random.Random) -> Seen:
    """Kills a worker, and then kills its replacement while it starts."""
    worker = rng.choice(sorted(run.expected))
    first = run.by_number()[worker]
    seen = _kill(run, [worker])
    second = wait_for(lambda: run.by_number().get(worker) not in (None, first), 30)
    if not second:
        return Seen(wrong=[f"worker {worker} was not started again within 30 s"])
    time.sleep(rng.uniform(1, 8))
    again = _kill(run, [worker])
    return Seen(tries=2, note=f"{seen.note}; {again.note}")


@attack("kills", must="the lighthouse comes back on its port, and all workers sync with equal anchors", scene="crew")
def kill_the_lighthouse(run: LiveRun, rng: random.Random) -> Seen:
    """Kills the lighthouse."""
    lighthouse = run.lighthouse()
    assert lighthouse is not None
    os.kill(lighthouse, signal.SIGKILL)
    back = wait_for(lambda: run.lighthouse() not in (None, lighthouse), 30)
    return Seen(wrong=[] if back else ["the lighthouse did not come back within 30 s"])


@attack("kills", must="all its processes end, and --resume goes on from the newest checkpoint", scene="ends")
def kill_the_supervisor(run: LiveRun, rng: random.Random) -> Ending:
    """Kills the supervisor."""
    wait_for(run.checkpoints, 60)
    run.processes()
    os.kill(run.supervisor, signal.SIGKILL)
    return Ending(statuses=(-signal.SIGKILL,), says="")


@attack("kills", must="the run goes on from its newest checkpoint by itself", scene="ends")
def kill_all_workers(run: LiveRun, rng: random.Random) -> Seen:
    """Kills all workers at once, so that no process holds the state."""
    newest = max(wait_for(run.checkpoints, 60), default=0)
    since = time.time()
    seen = _kill(run, sorted(run.by_number()))
    if run.goes_on(since=since + 1, seconds=90):
        again = min(line["step"] for line in run.syncs(since + 1))
        if again < newest:
            seen.wrong.append(f"it went on at step {again}, although there was a checkpoint of step {newest}")
    return seen


def _kill(run: LiveRun, workers: list[int]) -> Seen:
    step = run.step()
    for worker in workers:
        os.kill(run.by_number()[worker], signal.SIGKILL)
    return Seen(tries=len(workers), note=f"workers {workers} at step {step}")
