"""Themes: schedules whose faults belong together, so that they lead to what single faults rarely lead to.

A theme is a function of a random source and of a shape that was drawn. It returns a shape, which it may change, and
the faults.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from random import Random

from tests.simulation.fault import LIGHTHOUSE, Fault
from tests.simulation.toy import Shape

Theme = Callable[[Random, Shape], tuple[Shape, list[Fault]]]


def _begins_to_vote(workers: int) -> int:
    """Returns the point, counted from the phase `vote` on, at which a worker begins to exchange votes: before it lie
    the seals and the beginning of the vote."""
    return workers + 2


def doubt(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """A worker loses contact in a vote, and perhaps another one is slow or dies."""
    workers = random.choice([2, 3, 3, 3, 4])
    begin, times = _begins_to_vote(workers), random.randint(1, shape.rounds * shape.fragments)
    one, other, *_ = random.sample(range(workers), workers)
    at = Fault(kind="", worker=one, other=other, phase="vote", times=times, point=0)
    kind = random.choice(["reset", "reset", "abort"])
    faults = [replace(at, kind=kind, point=random.randint(begin - 1, begin + workers + 2))]
    if random.random() < 0.3:
        at = replace(at, worker=other, point=random.randint(0, begin), seconds=random.uniform(0.2, 3.0))
        faults.append(replace(at, kind="pause") if random.random() < 0.5 else replace(at, kind="kill", detail="newest"))
    return replace(shape, workers=workers), faults


def not_voted(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """A worker loses contact with another one that has not voted yet, while a third one waits for its vote."""
    workers = random.choice([3, 3, 4])
    begin, times = _begins_to_vote(workers), random.randint(1, shape.rounds * shape.fragments)
    one, other = random.sample(range(workers), 2)
    reset = Fault(
        kind="reset", worker=one, other=other, phase="vote", times=times, point=random.randint(begin, 2 * begin)
    )
    pause = replace(reset, kind="pause", worker=other, point=random.randint(begin - 2, begin - 1))
    return replace(shape, workers=workers), [reset, replace(pause, seconds=random.uniform(0.3, 3.0))]


def one_way(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """A worker hears all votes, and nobody hears its own one for so long that the others give the round up. It may die
    once it has committed the round."""
    workers = random.choice([2, 3, 3, 4, 5])
    times, worker = random.randint(1, 2), random.randrange(workers)
    point, seconds = random.choice([1, 2]) + _begins_to_vote(workers), random.uniform(10.0, 14.0)
    cut = Fault(kind="cut", worker=worker, phase="vote", times=times, point=point, seconds=seconds)
    faults = [replace(cut, other=other) for other in range(workers) if other != worker]
    if random.random() < 0.4:
        kill = replace(cut, kind="kill", phase="commit", point=random.randint(1, 3), detail="newest")
        faults.append(replace(kill, seconds=random.uniform(1.0, 20.0)))
    return replace(shape, workers=workers, rounds=max(shape.rounds, times + 2)), faults


def in_turns(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """Some workers go on without the others, fall silent, and then these go on. Some may have joined just before, and
    some may see the logs late."""
    workers = random.choice([2, 3, 3, 3, 3, 5])
    everyone = random.sample(range(workers), workers)
    size = 1 if random.random() < 0.5 else random.randint(1, workers - 1)
    first, second = everyone[:size], everyone[size:]
    joined = random.choice([[], first, second, second])
    late = random.choice([[], [], [], second, everyone])
    times = random.randint(1, 2)
    faults = [
        Fault(kind="kill", worker=worker, phase="commit", times=times, point=0, seconds=0.4, detail="none")
        for worker in joined
    ]
    opens = {worker: times + (1 if worker in joined or not joined else 2) for worker in everyone}
    faults += _goes_on(random, first, second, opens)
    faults += [
        Fault(kind="lag", worker=worker, phase="open", times=opens[worker], point=0, seconds=40.0, amount=40.0)
        for worker in late
    ]
    changed = replace(shape, workers=workers, fragments=1, delay=0, interval=min(shape.interval, 2), rounds=times + 3)
    return changed, faults


def both_alone(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """Of two workers one goes on alone, and is stopped before it can tell; so does the other one; then the first one
    goes on once more, unheard."""
    first, second = random.sample(range(2), 2)
    times = random.randint(1, 2)
    faults = []
    for opens in (times, times + 1):
        faults += _goes_on(random, [first], [second], {first: opens, second: opens})
    stop = Fault(kind="pause", worker=first, phase="commit", times=times, point=1, seconds=random.uniform(6.0, 9.0))
    at_first = ("commit", times)
    faults = [stop if (fault.phase, fault.times) == at_first else fault for fault in faults]
    interval = random.choice([1, 2])
    return replace(shape, workers=2, fragments=1, delay=0, interval=interval, rounds=times + 4), faults


def _goes_on(random: Random, first: Collection[int], second: Collection[int], opens: dict[int, int]) -> list[Fault]:
    """Returns faults by which some workers go on alone, and then, without them, the others. The round is the n-th that
    each of them opens."""
    faults = []
    for worker in second:
        at = Fault(kind="cut", worker=worker, phase="open", times=opens[worker], point=0, detail="both")
        faults += [replace(at, other=other, seconds=random.uniform(11.0, 13.0)) for other in first]
        faults.append(replace(at, other=LIGHTHOUSE, seconds=random.uniform(3.3, 4.5)))
    for worker in first:
        at = Fault(kind="cut", worker=worker, phase="commit", times=opens[worker], point=0, detail="both")
        faults.append(replace(at, other=LIGHTHOUSE, seconds=random.uniform(7.0, 9.5)))
    return faults


def all_killed(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """All workers are killed, one of them perhaps much earlier than the others, and come back with what they have."""
    interval, delay = random.choice([(2, 1), (2, 1), (2, 1), (3, 1), (2, 0), (3, 0)])
    workers = random.choice([2, 2, 3, 3, 4])
    save_every = random.choice([0, interval, *[interval + 1] * 4])  # the last ones with a round in flight
    changed = replace(
        shape, workers=workers, interval=interval, delay=delay, fragments=1, rounds=4, save_every=save_every
    )
    times = random.randint(2, 4)
    earlier = random.randrange(workers) if random.random() < 0.3 else None
    faults = []
    for worker in range(workers):
        state = random.choice(["newest", "newest", "newest", "none"])
        phase, when, point = random.choice(["commit", "commit", "open"]), times, random.randint(0, 6)
        seconds = random.uniform(0.3, 3.0)
        if worker == earlier:
            phase, when, seconds = "commit", max(1, times - random.randint(1, 2)), random.uniform(6.0, 12.0)
        faults.append(
            Fault(kind="kill", worker=worker, phase=phase, times=when, point=point, seconds=seconds, detail=state)
        )
    return changed, faults


def joins(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """Several workers are lost one after the other, and take over the state of those that are left."""
    workers = random.choice([2, 3, 3, 4])
    interval, delay = random.choice([(2, 1), (3, 1), (3, 1), (2, 0)])
    changed = replace(shape, workers=workers, interval=interval, delay=delay, fragments=1, rounds=random.randint(4, 6))
    stays, faults, times = random.randrange(workers), [], 0
    for _ in range(random.randint(2, 3)):
        times += random.randint(1, 2)
        worker = random.choice([worker for worker in range(workers) if worker != stays])
        fault = Fault(kind="kill", worker=worker, phase=random.choice(["commit", "open"]), times=times, point=2)
        faults.append(replace(fault, seconds=random.uniform(0.3, 1.0), detail="none"))
    return changed, faults


def late_at_the_end(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """The others end the run without a worker, which comes to its last step later."""
    workers = random.choice([2, 3])
    changed = replace(shape, workers=workers, interval=random.choice([2, 3]), delay=0, fragments=2, rounds=2)
    last = changed.rounds * changed.fragments
    fault = Fault(
        kind="pause",
        worker=random.randrange(workers),
        phase="commit",
        times=last - random.choice([2, 2, 1]),
        point=random.randint(1, 3),
        seconds=random.uniform(8.0, 40.0),
    )
    return changed, [fault]


def apart(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """Two workers do not reach each other for so long that one of them stays out, and then they do again."""
    workers = random.choice([2, 3, 3, 4])
    one, other = random.sample(range(workers), 2)
    cut = Fault(kind="cut", worker=one, other=other, phase=random.choice(["open", "headers", "commit"]), point=0)
    fault = replace(cut, times=1, seconds=random.uniform(28.0, 40.0), detail=random.choice(["both", "both", ""]))
    return replace(shape, workers=workers, interval=6, delay=0, fragments=1, rounds=8), [fault]


def only_answers(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """A worker that has met the others, and sees the logs late, is alone: that the others have gone on only they can
    tell."""
    workers = random.choice([2, 2, 3])
    joiner, times = random.randrange(workers), random.randint(1, 2)
    at = Fault(kind="kill", worker=joiner, phase="commit", times=times, point=0, seconds=0.4, detail="none")
    join = Fault(kind="message", worker=joiner, phase="join", times=1, point=0, amount=1, detail="lost")
    faults = [at, join, replace(join, kind="lag", seconds=60.0, amount=60.0, detail="")]
    for worker in range(workers):
        if worker != joiner:
            cut = Fault(kind="cut", worker=worker, other=LIGHTHOUSE, phase="commit", times=times + 1, point=0)
            faults.append(replace(cut, seconds=random.uniform(25.0, 40.0), detail="both"))
    return replace(shape, workers=workers, fragments=1, delay=0, rounds=times + 2), faults


def blind(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """One of two workers is stopped while the other one goes on, and neither logs nor answers show it afterwards."""
    worker, times = random.randrange(2), random.randint(1, 2)
    at = Fault(kind="lag", worker=worker, phase="commit", times=times, point=0, seconds=60.0, amount=60.0)
    pause = replace(at, kind="pause", point=random.randint(1, 3), seconds=random.uniform(8.0, 14.0), amount=0)
    lost = replace(at, kind="message", phase="gather", times=times + 1, seconds=0.0, amount=2, detail="lost")
    lost = replace(lost, point=random.randint(1, 5))
    return replace(shape, workers=2, interval=random.choice([1, 2]), fragments=1, delay=0, rounds=9), [at, pause, lost]


def connections_break(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """The connections break again and again, so that the workers meet anew."""
    workers = random.choice([2, 3])
    faults = []
    for _ in range(random.randint(3, 5)):
        worker, other = random.sample(range(workers), 2)
        times = random.randint(1, shape.rounds * shape.fragments)
        fault = Fault(kind=random.choice(["reset", "abort"]), worker=worker, other=other, point=random.randint(0, 6))
        faults.append(replace(fault, phase=random.choice(["headers", "gather", "vote"]), times=times))
    return replace(shape, workers=workers), faults


def threads_starve(random: Random, shape: Shape) -> tuple[Shape, list[Fault]]:
    """The thread that exchanges a fragment begins after later inner steps."""
    starve = Fault(kind="starve", worker=random.randrange(shape.workers), phase="commit", times=1, point=1, seconds=2.5)
    interval = random.choice([2, 3])
    return replace(shape, interval=interval, delay=1, fragments=1, save_every=0), [starve]


THEMES: tuple[Theme, ...] = (
    doubt,
    not_voted,
    one_way,
    in_turns,
    both_alone,
    all_killed,
    joins,
    late_at_the_end,
    apart,
    only_answers,
    blind,
    connections_break,
    threads_starve,
)
