"""The judge, which looks at a live run after an attack and gives the verdict."""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attacking.live import LiveRun, wait_for
from attacking.registry import Ending, Report, Seen, Verdict

SYNC_SECONDS = 90.0
"""Most seconds from the end of an attack to the next syncs of all workers; a killed worker is back by then."""
END_SECONDS = 60.0
LOSS_MARGIN = 0.5
"""Largest rise of the held-out loss over that before the attack, in nats a token; noise is a tenth of it."""
STEPS_A_SECOND = 60.0
"""Inner steps a second that no run can take; a run that goes faster has believed a claim to be ahead."""


@dataclass(frozen=True)
class Before:
    """A run before an attack."""

    time: float
    step: int
    held_out: float | None


def look(run: LiveRun) -> Before:
    run.processes()
    return Before(time.time(), run.step(), run.held_out())


def differing(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the syncs after which workers held different anchors."""
    anchors: dict[tuple[int, int, int], dict[str, list[int]]] = {}
    for line in lines:
        if line.get("event") == "sync":
            place = (line["attempt"], line["step"], line["fragment"])
            anchors.setdefault(place, {}).setdefault(line["digest"], []).append(line["worker"])
    return [f"step {place[1]}, fragment {place[2]}: {held}" for place, held in anchors.items() if len(held) > 1]


def after(run: LiveRun, before: Before, seen: Seen) -> Report:
    """Returns the verdict on an attack that the run has to survive."""
    if seen.impossible:
        return Report.of(Verdict.IMPOSSIBLE, seen.impossible)
    since = time.time()
    goes_on = run.goes_on(since=since, seconds=SYNC_SECONDS)
    note = seen.note or seen.refused
    if run.status is not None:
        return Report.of(Verdict.LOST, f"the run ended with status {run.status}: {run.last_lines(3)}", tries=seen.tries)
    if not goes_on:
        some = len(run.syncs(since))
        who = sorted(run.expected)
        what = f"no sync of workers {who} within {SYNC_SECONDS:g} s ({some} sync lines meanwhile); {run.last_lines(2)}"
        return Report.of(Verdict.LOST if some else Verdict.HUNG, what, tries=seen.tries)
    wrong = [*seen.wrong, *_harm(run, before)]
    if wrong:
        report = Report.of(Verdict.LOST, "; ".join(wrong))
        report.counts[Verdict.SURVIVED] += max(0, seen.tries - max(1, len(seen.wrong)))
        report.counts[Verdict.LOST] = max(1, min(seen.tries, len(seen.wrong)))
        return report
    return Report.of(Verdict.REFUSED if seen.refused else Verdict.SURVIVED, note, tries=seen.tries)


def _harm(run: LiveRun, before: Before) -> list[str]:
    """Returns the damage that an attack has done to a run that goes on."""
    found = [f"anchors differ: {place}" for place in differing(run.syncs(before.time))]
    elapsed = time.time() - before.time
    if before.step and run.step() - before.step > STEPS_A_SECOND * elapsed + 50:
        found.append(f"the run jumped from step {before.step} to {run.step()} in {elapsed:.0f} s")
    now = run.held_out(before.time)
    if now is not None and not now < (before.held_out or 100.0) + LOSS_MARGIN:
        found.append(f"the held-out loss went from {before.held_out} to {now}")
    return found


def ended(run: LiveRun, before: Before, ending: Ending) -> Report:
    """Returns the verdict on an attack that has to end the run, which then has to be resumable."""
    run.processes()
    status = run.wait(END_SECONDS)
    if status is None:
        return Report.of(Verdict.HUNG, f"it has not ended within {END_SECONDS:g} s: {run.last_lines(3)}")
    wait_for(lambda: not run.left_over(), 15)
    if left := run.left_over():
        return Report.of(Verdict.LOST, f"processes are left: {', '.join(left)}")
    last = run.last_lines()
    if status not in ending.statuses:
        return Report.of(Verdict.LOST, f"status {status} instead of {ending.statuses}: {last}")
    if not re.search(ending.says, last, re.S):
        return Report.of(Verdict.LOST, f"status {status}; it does not say {ending.says!r}: {last}")
    shown = next((line for line in reversed(last.splitlines()) if re.search(ending.says, line)), last.splitlines()[-1:])
    if ending.resumes:
        newest = max(run.checkpoints(), default=0)
        run.start("--resume")
        if not run.goes_on(seconds=SYNC_SECONDS):
            verdict = Verdict.HUNG if run.status is None else Verdict.LOST
            return Report.of(verdict, f"--resume does not go on (status {run.status}): {run.last_lines(3)}")
        again = min((line["step"] for line in run.syncs(before.time) if line["attempt"] == _attempt(run)), default=0)
        if again < newest:
            return Report.of(Verdict.LOST, f"--resume began at step {again}, behind the checkpoint of step {newest}")
        if wrong := differing(run.syncs()):
            return Report.of(Verdict.LOST, f"after --resume anchors differ: {'; '.join(wrong)}")
    return Report.of(Verdict.ENDED, f"status {status}: {shown}")


def _attempt(run: LiveRun) -> int:
    return max((line["attempt"] for line in run.lines()), default=1)
