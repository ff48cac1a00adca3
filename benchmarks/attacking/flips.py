"""Flips single bits in the data that workers receive, and in the prepared data."""

import random
import shutil
import time
from pathlib import Path

from attacking.live import CONFIG, SETTINGS, LiveRun, wait_for, words
from attacking.registry import Report, Seen, Verdict, attack
from attacking.scenes import Workshop

NOTICED = "the round fails and is repeated; no worker averages damaged data"


@attack("bit flips", must=NOTICED, scene="crew")
def bits_in_payloads(run: LiveRun, rng: random.Random) -> Seen:
    """Flips one bit of a payload that a worker has received, three times."""
    return _flip(run, "payload", 3)


@attack("bit flips", must=NOTICED, scene="crew")
def bits_in_messages(run: LiveRun, rng: random.Random) -> Seen:
    """Flips one bit of a header, a vote or another message that a worker has received, three times."""
    return _flip(run, "message", 3)


@attack("bit flips", must="the damage is reported in one line, or the data is prepared again")
def bits_in_the_prepared_data(workshop: Workshop, rng: random.Random) -> Report:
    """Flips one bit in a file of the prepared data, and starts a run from it."""
    report = Report()
    workshop.finished()  # so that the data has been prepared
    import os

    source = Path(os.environ["MULOCO_CACHE"])
    files = sorted(path.relative_to(source) for path in source.rglob("*.npy"))
    for number, file in enumerate(files[:4]):
        cache = workshop.room() / "cache"
        shutil.copytree(source, cache)
        data = bytearray((cache / file).read_bytes())
        data[rng.randrange(128, len(data))] ^= 1 << rng.randrange(8)
        (cache / file).write_bytes(data)
        settings = {**SETTINGS, "training.steps": 2, "fault_tolerance.group_size": 1, "run.outputs": str(cache.parent)}
        done = workshop.command("train", CONFIG, *words({**settings, "run.name": "x"}), MULOCO_CACHE=str(cache))
        said = (done.stdout + done.stderr).strip()
        last = said.splitlines()[-1] if said else ""
        if done.returncode == 124:
            report.add(Verdict.HUNG, f"{file}: {last}")
        elif done.returncode == 0:
            report.add(Verdict.LOST, f"{file}: the run trained on it without a message")
        elif "Traceback" in said:
            report.add(Verdict.LOST, f"{file}: a traceback: {last}")
        else:
            report.add(Verdict.REFUSED, f"{file.name}: {last}" if number == 0 else "")
        shutil.rmtree(cache.parent)
    return report


def _flip(run: LiveRun, kind: str, times: int) -> Seen:
    wrong = []
    order = run.hook / f"flip-{kind}"
    for _ in range(times):
        since = time.time()
        order.touch()
        if not wait_for(lambda: not order.exists(), 30):
            order.unlink(missing_ok=True)
            return Seen(wrong=[*wrong, "no worker received anything for 30 s"])
        run.goes_on(since=since, seconds=60, syncs=3)
        if max((line["attempts"] for line in run.syncs(since)), default=1) < 2:
            wrong.append(f"a flipped bit in a {kind} was accepted without a message at step {run.step()}")
    return Seen(tries=times, wrong=wrong, refused="the round was repeated")
