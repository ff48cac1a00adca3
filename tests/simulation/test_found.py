"""Schedules in which the simulation has found mistakes of the engine. Each failed before the mistake was mended."""

import pytest

from tests.simulation.faults import LIGHTHOUSE, Fault, Schedule
from tests.simulation.story import tell
from tests.simulation.toy import Shape

FOUND = {
    "a worker whose first group could not be connected ended with AttributeError, and with it the run": Schedule(
        0, Shape(workers=3, interval=1, rounds=1), (Fault(kind="kill", worker=1, point=4, seconds=2.0, detail="none"),)
    ),
    "a worker that was long in meeting began alone what the others had finished": Schedule(
        0, Shape(workers=2, interval=2, rounds=3), (Fault(kind="pause", worker=1, point=6, seconds=43.0),)
    ),
    "before the first step, workers counted as late while there was no lighthouse": Schedule(
        0, Shape(workers=4, interval=3, rounds=1), (Fault(kind="lighthouse", worker=3, point=19, seconds=36.0),)
    ),
    "a worker that joined while a round was in flight repeated its data": Schedule(
        0,
        Shape(workers=2, interval=2, delay=1, rounds=3, save_every=3),
        (
            Fault(kind="kill", worker=0, point=3, phase="commit", times=2, seconds=1.0, detail="newest"),
            Fault(kind="kill", worker=1, point=3, phase="commit", times=2, seconds=0.5, detail="none"),
        ),
    ),
    "nobody asked whether a worker that had joined since the last round has gone on": Schedule(
        3,
        Shape(workers=4, interval=3, delay=1, rounds=4),
        (
            Fault(kind="kill", worker=3, point=1, phase="headers", times=2, seconds=2.0, detail="none"),
            Fault(kind="lighthouse", worker=1, point=0, phase="headers", times=3, seconds=22.0),
            Fault(kind="kill", worker=3, point=1, phase="gather", times=3, seconds=9.0, detail="none"),
        ),
    ),
    "a worker that had missed a sync ended with RuntimeError in that of a fragment of another size": Schedule(
        0,
        Shape(workers=3, interval=2, fragments=2, rounds=4),
        (Fault(kind="pause", worker=1, point=1, phase="open", times=3, seconds=4.0),),
    ),
    "a worker that had gone on alone did not ask whether the others had, too": Schedule(
        3,
        Shape(workers=2, interval=1, rounds=2),
        (
            Fault(kind="cut", worker=0, point=42, other=LIGHTHOUSE, seconds=5.0),
            Fault(kind="pause", worker=1, point=1, phase="commit", times=1, seconds=6.0),
        ),
    ),
    "a rank whose exchange had failed kept others waiting, which other ranks of its worker waited for": Schedule(
        208,
        Shape(workers=2, interval=1, rounds=1, ranks=2),
        (Fault(kind="message", worker=0, point=1, phase="vote", times=1, amount=4, detail="damaged"),),
    ),
    "the first worker at a restarted lighthouse went on alone, and the others lost their windows": Schedule(
        2,
        Shape(workers=3, interval=1, rounds=4),
        (Fault(kind="lighthouse", worker=2, point=1, phase="commit", times=2, seconds=2.0),),
    ),
    "workers that were left behind gave up the run, though another one went on with it": Schedule(
        339,
        Shape(workers=3, interval=4, fragments=2, delay=1, rounds=2),
        (
            Fault(kind="lighthouse", worker=2, point=1, phase="commit", times=2, seconds=34.01010629218584),
            Fault(kind="lighthouse", worker=2, point=1, phase="vote", times=1, seconds=1.0596547210744451),
        ),
    ),
    "a restarted lighthouse repeated a number, and a worker said that a committed round had failed": Schedule(
        22390,
        Shape(workers=3, interval=1, rounds=2),
        (
            Fault(kind="lighthouse", worker=1, point=3, phase="open", times=2, seconds=1.0),
            Fault(kind="lighthouse", worker=1, point=1, phase="headers", times=1, seconds=0.25786144425368557),
            Fault(kind="kill", worker=1, point=2, phase="open", times=2, seconds=0.2930813518903358, detail="none"),
        ),
    ),
    "the time for which a sync waits for missing workers went on while the lighthouse was away": Schedule(
        10857,
        Shape(workers=3, interval=3, fragments=2, rounds=3),
        (
            Fault(kind="lighthouse", worker=1, point=1, phase="commit", times=5, seconds=18.079018656970657),
            Fault(kind="lighthouse", worker=2, point=1, phase="commit", times=4, seconds=2.4213202102521514),
        ),
    ),
    "a worker that was cut off went on alone, though a second process of it had finished the run": Schedule(
        719,
        Shape(workers=3, interval=1, rounds=2),
        (
            Fault(
                kind="double",
                worker=2,
                point=3,
                phase="vote",
                times=1,
                other=2,
                seconds=19.0,
                amount=1.0,
                detail="none",
            ),
        ),
    ),
    "a flipped bit of a momentum was noticed a window late, and in the last window not at all": Schedule(
        0,
        Shape(workers=2, interval=1, rounds=3),
        (Fault(kind="flip", worker=1, point=1, phase="vote", times=2, amount=240, detail="momentum"),),
    ),
    "a round that was tried again spread a bit of an anchor that was flipped meanwhile": Schedule(
        0,
        Shape(workers=3, interval=1, rounds=2),
        (
            Fault(kind="flip", worker=2, point=1, phase="vote", times=1, amount=54, detail="anchor"),
            Fault(kind="kill", worker=1, point=1, phase="scatter", times=1, seconds=1.0, detail="newest"),
        ),
    ),
}


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found(found: str) -> None:
    outcome = FOUND[found].run()
    assert outcome.failure is None
    *_, last = tell(FOUND[found], outcome)
    assert last.startswith("It has ended")
