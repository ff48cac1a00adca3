"""Fake and misconfigured workers at the lighthouse of a live run, in which the place of worker 2 is free."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from attacking.live import CONFIG, LiveRun, muloco, wait_for, words
from attacking.registry import Seen, attack

WITHOUT = "it learns nothing and decides nothing; the others go on to sync with equal anchors"
MISFIT = "it is refused with the reason in one line; the others go on to sync with equal anchors"
SECONDS = 60.0


def secret_of(run: LiveRun) -> str | None:
    """Returns the secret in the run folder, or None if there is none."""
    with contextlib.suppress(OSError):
        return (run.files / ".secret").read_text().strip()
    return None


def address_of(run: LiveRun) -> str:
    """Returns the address of the lighthouse in the environment of a worker of the run."""
    for process in run.by_number().values():
        with contextlib.suppress(OSError):
            for word in Path(f"/proc/{process}/environ").read_text(errors="replace").split("\0"):
                if word.startswith("TORCHFT_LIGHTHOUSE="):
                    return word.partition("=")[2]
    raise RuntimeError("no worker of the run has an address of a lighthouse")


def fake(
    run: LiveRun, secret: str | None, *, tells: Any = "garbage", worker: int = 2, rounds: int = 4, extra: int = 0
) -> list[dict]:
    """Starts a fake worker and returns what it has learned in each round."""
    order = {"lighthouse": address_of(run), "run": run.name, "worker": worker, "secret": secret, "tells": tells}
    order |= {"rounds": rounds, "seconds": 15, "extra": extra}
    script = str(Path(__file__).with_name("stranger.py"))
    try:
        told = subprocess.run(
            [sys.executable, script, json.dumps(order)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=SECONDS,
            env=run.environment,
        ).stdout
    except subprocess.TimeoutExpired as late:
        told = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
    return [json.loads(line) for line in told.splitlines() if line.startswith("{")]


def outsider(run: LiveRun, secret: str | None, *, extra: int = 0) -> Seen:
    """Starts a fake worker that does not know the secret, and checks that it learns nothing."""
    if secret_of(run) is None:
        return Seen(wrong=["the run has no secret: whoever reaches the lighthouse takes part"])
    since = time.time()
    rounds = fake(run, secret, extra=extra)
    meanwhile = len(run.whole_syncs(since))
    wrong = [f"round {told['round']}: it has read {told['read']} headers" for told in rounds if told["read"]]
    wrong += [
        f"round {told['round']}: it was committed" for told in rounds if told["committed"] and told["members"] > 1
    ]
    if not rounds:
        wrong.append("the stranger itself did not run")
    return Seen(wrong=wrong, refused=f"{_errors(rounds)}; {meanwhile} syncs of the others meanwhile")


def insider(run: LiveRun, tells: Any, *, worker: int = 2) -> Seen:
    """Starts a fake worker that knows the secret; the judge then looks at the run."""
    since = time.time()
    rounds = fake(run, secret_of(run), tells=tells, worker=worker)
    wrong = [] if rounds else ["the stranger itself did not run"]
    wrong += [f"worker {worker} is in a sync" for line in run.syncs(since) if str(worker) in line["weights"]][:1]
    meanwhile = len(run.whole_syncs(since))
    return Seen(wrong=wrong, refused=f"{_errors(rounds) or 'left out'}; {meanwhile} syncs of the others meanwhile")


def _errors(rounds: list[dict]) -> str:
    """Returns the errors that the stranger got, round by round, without repetitions."""
    said = [told.get("error") or f"it met {told['members']} and read {told['read']} headers" for told in rounds]
    return "; ".join(dict.fromkeys(said))


@attack("strangers", must=WITHOUT, scene="gap")
def a_fake_worker_without_the_secret(run: LiveRun, rng: random.Random) -> Seen:
    """A fake worker comes to the lighthouse; it does not know the secret."""
    return outsider(run, None)


@attack("strangers", must=WITHOUT, scene="gap")
def a_fake_worker_with_a_wrong_secret(run: LiveRun, rng: random.Random) -> Seen:
    """A fake worker comes with a secret that is wrong in one character."""
    right = secret_of(run)
    return outsider(run, None if right is None else ("0" if right[0] != "0" else "1") + right[1:])


@attack("strangers", must=WITHOUT, scene="gap")
def a_fake_worker_that_sends_too_much(run: LiveRun, rng: random.Random) -> Seen:
    """A fake worker without the secret sends messages that are too long, as a worker of another version may do."""
    return outsider(run, None, extra=32)


@attack("strangers", must=WITHOUT, scene="gap")
def a_fake_worker_that_sends_far_too_much(run: LiveRun, rng: random.Random) -> Seen:
    """A fake worker without the secret sends 20 MiB in place of each message."""
    return outsider(run, None, extra=20 * 2**20)


@attack("strangers", must=MISFIT, scene="gap")
def garbage_instead_of_a_header(run: LiveRun, rng: random.Random) -> Seen:
    """A fake worker with the secret sends bytes that are not a header."""
    return insider(run, "garbage")


@attack("strangers", must=MISFIT, scene="gap")
def nested_json_instead_of_a_header(run: LiveRun, rng: random.Random) -> Seen:
    """A fake worker with the secret sends a hundred thousand brackets."""
    return insider(run, "deep nesting")


@attack("strangers", must=MISFIT, scene="gap")
def the_next_version_of_the_protocol(run: LiveRun, rng: random.Random) -> Seen:
    """A fake worker with the secret speaks the next version: its header has another version and one field more."""
    return insider(run, {"worker": 2, "version": {"add": 1}, "protocol": {"add": 1}, "mood": "good"})


@attack("strangers", must="the majority does not believe it", scene="gap")
def a_claim_to_be_far_ahead(run: LiveRun, rng: random.Random) -> Seen:
    """A fake worker with the secret claims to be 1000 steps ahead with a history of its own."""
    return insider(run, {"worker": 2, "step": {"add": 1000}, "history": "0123456789abcdef", "weight": 5})


@attack("strangers", must="nobody averages with it", scene="gap")
def an_absurd_weight(run: LiveRun, rng: random.Random) -> Seen:
    """A fake worker with the secret claims a window of 10^9 steps."""
    return insider(run, {"worker": 2, "weight": 10**9})


@attack("strangers", must=MISFIT, scene="gap")
def a_fake_worker_with_a_number_beyond_k(run: LiveRun, rng: random.Random) -> Seen:
    """A fake worker with the secret comes as worker 9 of 3."""
    return insider(run, {"worker": 9}, worker=9)


def by_hand(run: LiveRun, *, worker: int = 2, name: str | None = None, secret: str | None = None, **wrong: Any) -> Seen:
    """Starts `muloco worker` by hand with wrong options, and waits until it is refused."""
    values = {key: value for key, value in run.settings.items() if not key.startswith("run.")}
    values |= {key.replace("__", "."): value for key, value in wrong.items()}
    values |= {"run.name": name or run.name, "run.outputs": str(run.outputs), "fault_tolerance.replica_id": worker}
    own = {**run.environment, "TORCHFT_LIGHTHOUSE": address_of(run), "GLOO_SOCKET_IFNAME": "lo", "RUST_LOG": "warn"}
    known = secret or secret_of(run)
    if known is not None:
        own["MULOCO_SECRET"] = known
    log = run.outputs / f"{run.name}.by-hand"
    since = time.time()
    with log.open("w") as output:
        process = subprocess.Popen(
            muloco("worker", str(CONFIG), *words(values)), stdout=output, stderr=subprocess.STDOUT, env=own
        )
    try:
        wait_for(lambda: process.poll() is not None or run.status is not None, SECONDS)
        status = process.poll()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = said[-1] if said else "nothing"
    found = [f"worker {worker} is in a sync" for line in run.syncs(since) if str(worker) in line["weights"]][:1]
    found = [] if worker in run.expected and not wrong else found
    if status is None:
        found.append(f"it was not refused within {SECONDS:g} s; it says: {last}")
    elif status == 0:
        found.append(f"it ended with status 0: {last}")
    elif status < 0:
        found.append(f"it was killed by signal {-status}: {last}")
    return Seen(refused=last, wrong=found)


@attack("strangers", must=MISFIT, scene="gap")
def a_worker_of_another_run(run: LiveRun, rng: random.Random) -> Seen:
    """A worker of another run is started by hand at this lighthouse, with the secret."""
    return by_hand(run, name=f"{run.name}-other")


@attack("strangers", must=MISFIT, scene="gap")
def a_worker_with_a_wrong_secret(run: LiveRun, rng: random.Random) -> Seen:
    """A worker of the run is started by hand with another secret."""
    return by_hand(run, secret="this is not the secret of the run")


@attack("strangers", must=MISFIT, scene="gap")
def a_number_twice(run: LiveRun, rng: random.Random) -> Seen:
    """A second worker 1 is started by hand."""
    return by_hand(run, worker=1)


@attack("strangers", must=MISFIT, scene="gap")
def a_number_beyond_k(run: LiveRun, rng: random.Random) -> Seen:
    """A worker 9 of 3 is started by hand."""
    return by_hand(run, worker=9)


@attack("strangers", must=MISFIT, scene="gap")
def another_sync_interval(run: LiveRun, rng: random.Random) -> Seen:
    """Worker 2 is started by hand with H = 7 instead of 5."""
    return by_hand(run, fault_tolerance__sync_steps=7)


@attack("strangers", must=MISFIT, scene="gap")
def another_codec(run: LiveRun, rng: random.Random) -> Seen:
    """Worker 2 is started by hand with compressed pseudogradients."""
    return by_hand(run, compression__kind="linear", compression__bits=4)


@attack("strangers", must=MISFIT, scene="gap")
def other_fragments(run: LiveRun, rng: random.Random) -> Seen:
    """Worker 2 is started by hand with two fragments."""
    return by_hand(run, fault_tolerance__num_fragments=2)


@attack("strangers", must=MISFIT, scene="gap")
def other_shapes(run: LiveRun, rng: random.Random) -> Seen:
    """Worker 2 is started by hand with a larger model."""
    return by_hand(run, model__flavor="small")


@attack("strangers", must="it joins, and all sync with equal anchors", scene="gap")
def the_right_worker(run: LiveRun, rng: random.Random) -> Seen:
    """Worker 2 is started by hand as the documentation says: the control of this family."""
    values = {key: value for key, value in run.settings.items() if not key.startswith("run.")}
    values |= {"run.name": run.name, "run.outputs": str(run.outputs), "fault_tolerance.replica_id": 2}
    own = {**run.environment, "TORCHFT_LIGHTHOUSE": address_of(run), "GLOO_SOCKET_IFNAME": "lo", "RUST_LOG": "warn"}
    log = run.outputs / f"{run.name}.by-hand"
    since = time.time()
    with log.open("w") as output:
        process = subprocess.Popen(
            muloco("worker", str(CONFIG), *words(values)), stdout=output, stderr=subprocess.STDOUT, env=own
        )
    try:
        joined = wait_for(lambda: run.whole_syncs(since, {0, 1, 2}), 60)
    finally:
        process.kill()
        process.wait()
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return Seen(wrong=[] if joined else [f"it did not join within 60 s: {said[-1:]}"])
