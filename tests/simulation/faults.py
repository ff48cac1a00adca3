"""Faults, as plain records, and schedules: what is run, and when which fault happens. All follows from a seed."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from random import Random

from muloco.outer.protocol.wire import CUT_OFF
from tests.simulation import outsiders
from tests.simulation.fault import LIGHTHOUSE, Fault
from tests.simulation.lighthouse import MACHINE
from tests.simulation.ranks import machine
from tests.simulation.run import PROGRESS_SECONDS, Outcome, Run
from tests.simulation.themes import THEMES
from tests.simulation.toy import Shape
from tests.simulation.world import Process

EVERYONE = -2
"""Stands for all other machines."""
HEALING_SECONDS = 100.0
"""Time after a disturbance within which workers that have lost each other find each other again."""
SHORT_SECONDS = 4.0
"""A silence that is shorter than all timeouts is no excuse for anything."""
THEMED = 0.4
"""Fraction of the schedules that have a theme, see `tests.simulation.themes`."""
MESSAGES = ("lost", "late", "doubled", "unanswered", "damaged")
PHASES = ("open", "headers", "scatter", "gather", "vote", "vote", "vote", "vote", "commit", "join")
MAJORITIES = 0.25
"""Share of the schedules in which a round needs more than half of the workers."""
KINDS = (
    "kill",  # a worker, which starts again after `seconds`, from its `newest` checkpoint, an `old` one or `none`
    "kill",
    "kill",
    "pause",  # a worker, for `seconds`
    "cut",  # nothing gets from `worker` to `other` for `seconds`; with detail `both`, nor back
    "cut",
    "reset",  # the connection of a worker with `other` breaks; with detail `all`, those with all members
    "reset",
    "abort",  # a worker breaks its connections itself, as `Transport.cut` does
    "message",  # the next `amount` messages of a worker are `lost`, `late`, `doubled`, `unanswered` or `damaged`
    "message",
    "lighthouse",  # is killed, and starts again after `seconds`
    "slow",  # the lighthouse answers `amount` seconds later, for `seconds`
    "lag",  # a worker sees the commit logs of others `amount` seconds late, for `seconds`
    "tail",  # the newest `amount` lines of a worker's commit log are lost, and its process is killed
    "jump",  # the clock of a worker jumps by `amount` seconds
    "starve",  # the next thread that a worker starts begins `seconds` later
)
REQUESTS = ("stop", "spoil")
"""What happens to a worker without disturbing it: it is asked to stop, or `amount`, NaN or Inf, gets into its
parameters."""


@dataclass(frozen=True)
class Schedule:
    """A run and its faults."""

    seed: int
    shape: Shape
    faults: tuple[Fault, ...]

    def run(self, *, told: bool = False) -> Outcome:
        """Runs the schedule; see `Run.carry_out`."""
        run = Run(self.shape, self.seed)
        points: Counter[str] = Counter()
        phases: Counter[tuple[str, str]] = Counter()
        at_point: dict[tuple[str, int], list[Fault]] = {}
        at_phase: dict[tuple[str, str, int], list[Fault]] = {}
        for fault in self.faults:
            if fault.phase:
                at_phase.setdefault(
                    (machine(fault.worker, fault.rank), f"is at {fault.phase}", fault.times), []
                ).append(fault)
            else:
                at_point.setdefault((machine(fault.worker, fault.rank), fault.point), []).append(fault)

        def on_point(process: Process, what: str) -> None:
            where = process.machine
            points[where] += 1
            if what.startswith("is at"):
                phases[where, what] += 1
                for fault in at_phase.pop((where, what, phases[where, what]), ()):
                    at_point.setdefault((where, points[where] + fault.point), []).append(fault)
            for fault in at_point.pop((where, points[where]), ()):
                run.world.tell(process.name, f"{what} (point {points[where]})")
                happen(fault, run)

        run.network.forger.listens = any(fault.kind in outsiders.FORGERIES for fault in self.faults)
        run.world.on_point = on_point
        run.world.seconds = PROGRESS_SECONDS
        return replace(run.carry_out(told=told), points=dict(points))


def happen(fault: Fault, run: Run) -> None:
    """Lets a fault happen now."""
    world, network, ledger = run.world, run.network, run.ledger
    me, process = machine(fault.worker, fault.rank), run.process(fault.worker, fault.rank)
    world.seconds = max(world.seconds, world.now + fault.seconds + PROGRESS_SECONDS)
    ledger.quiet = max(ledger.quiet, world.now + fault.seconds)
    ledger.healed = max(ledger.healed, world.now + fault.seconds)
    name = f"worker {fault.worker}{f' rank {fault.rank}' if fault.rank else ''}"
    if fault.kind not in REQUESTS:
        run.troubled = max(run.troubled, world.now + fault.seconds)
    silent = fault.kind in ("pause", "cut", "starve") and fault.seconds > SHORT_SECONDS
    if silent or fault.detail in ("lost", "late", "unanswered"):
        ledger.disturbed = max(ledger.disturbed, world.now + fault.seconds + HEALING_SECONDS)
    if fault.kind in ("lag", "tail"):
        ledger.forgetful = True
    if fault.kind not in ("stranger", "flip"):
        ledger.harmed = max(ledger.harmed, world.now + fault.seconds + fault.amount)
    match fault.kind:
        case "kill":
            run.kill(fault.worker, fault.rank, restart=fault.seconds, state=fault.detail)
        case "tail":
            world.tell("the storage", f"loses the last {fault.amount:.0f} lines of the commit log of {name}")
            run.storage.lose_tail(fault.worker, int(fault.amount))
            run.kill(fault.worker, fault.rank, restart=fault.seconds, state=fault.detail)
        case "pause" if process is not None:
            world.tell(name, f"is stopped for {fault.seconds:.1f} s")
            process.pause()
            world.at(fault.seconds, process.resume)
        case "cut":
            others, both = _beyond(fault, run.shape), fault.detail == "both"
            world.tell(
                "the network",
                f"carries nothing from {me} to {', '.join(others)}{' and back' if both else ''} for "
                f"{fault.seconds:.1f} s",
            )
            for other in others:
                network.cut(me, other, fault.seconds)
                if both:
                    network.cut(other, me, fault.seconds)
        case "reset":
            with_all = fault.detail == "all"
            world.tell("the network", f"breaks the connection of {name} with {'all' if with_all else fault.other}")
            network.reset(me, None if with_all else machine(fault.other, fault.rank))
        case "abort" if process is not None and process.alive:
            world.tell(name, "breaks its connections")
            program = run.program(fault.worker, fault.rank)
            if program is not None and (end := program.wire.end) is not None:
                end.close(CUT_OFF)
        case "message":
            world.tell("the network", f"the next {fault.amount:.0f} messages of {name}: {fault.detail}")
            network.mishaps[me] = [fault.detail] * int(fault.amount)
        case "lighthouse":
            ledger.unmet = max(ledger.unmet, world.now + fault.seconds + HEALING_SECONDS)
            run.lighthouse.restart(fault.seconds)
        case "slow":
            world.tell("the lighthouse", f"takes {fault.amount:.1f} s longer for {fault.seconds:.1f} s")
            run.lighthouse.slow = fault.amount
            world.at(fault.seconds, lambda: setattr(run.lighthouse, "slow", 0.0))
        case "lag":
            world.tell("the storage", f"shows {name} the logs of others {fault.amount:.1f} s late")
            run.storage.lags[me] = (world.now + fault.seconds, fault.amount)
        case "jump" if process is not None:
            world.tell(name, f"its clock jumps by {fault.amount:.1f} s")
            process.jump += fault.amount
        case "starve" if process is not None:
            world.tell(name, f"the next thread that it starts begins {fault.seconds:.1f} s later")
            process.starved = fault.seconds
        case "stop" if (program := run.program(fault.worker, fault.rank)) is not None:
            world.tell(name, "is asked to stop")
            program.stop_requested = True
        case "spoil" if (program := run.program(fault.worker, fault.rank)) is not None:
            world.tell(name, f"gets {fault.amount} into its parameters")
            program.spoiled = fault.amount
        case _:
            outsiders.happen(fault, run)
    for other_ledger in run.ledgers[1:]:
        other_ledger.heeds(ledger)


def _beyond(fault: Fault, shape: Shape) -> list[str]:
    """Returns the machines from which a fault cuts a rank off."""
    ranks = [machine(worker, rank) for worker in range(shape.workers) for rank in range(shape.ranks)]
    if fault.other == EVERYONE:
        return [other for other in (MACHINE, *ranks) if other != machine(fault.worker, fault.rank)]
    if fault.other == LIGHTHOUSE:  # only the first rank asks it
        return [machine(fault.worker) if fault.rank else MACHINE]
    return [machine(fault.other, fault.rank)]


def draw(seed: int, *, workers: int | None = None) -> Schedule:
    """Draws a schedule.

    Args:
        seed: of all that is drawn.
        workers: K; None: from 2 to 5.
    """
    random = Random(f"schedule {seed}")
    interval, fragments, delay = random.choice(
        [(1, 1, 0), (2, 1, 0), (2, 1, 0), (3, 1, 0), (2, 1, 1), (3, 1, 1), (2, 2, 0), (3, 2, 0), (4, 2, 1)]
    )
    ranks = random.choice([2, 2, 2, 3]) if random.random() < 0.1 else 1
    chosen = workers or random.choice([2, 2, 2, 3] if ranks > 1 else [2, 3, 3, 3, 4, 5])
    shape = Shape(
        workers=chosen,
        interval=interval,
        fragments=fragments,
        delay=delay,
        rounds=random.choice([2, 3] if ranks > 1 else [2, 3, 3, 4]),
        compressed=random.random() < 0.15,
        save_every=random.choice([0, 0, interval, interval + 1]),
        ranks=ranks,
        hasty=delay > 0 and random.random() < 0.3,
        shares=random.random() < 0.1,
    )
    if random.random() < THEMED:
        shape, themed = random.choice(THEMES)(random, replace(shape, ranks=1))
        return Schedule(seed, shape, tuple(themed))
    faults = [_draw_fault(random, shape) for _ in range(random.choice([1, 1, 2, 2, 2, 3, 3, 4]))]
    for index in range(1, len(faults)):
        if random.random() < 0.5 and (phase := faults[index - 1].phase):  # they come together
            point = random.randint(0, 2 + 2 * shape.workers)
            faults[index] = replace(faults[index], phase=phase, times=faults[index - 1].times, point=point)
    asked = random.random() < 0.15
    if asked:
        faults[-1] = _draw_request(random, faults[-1])
    if random.random() < MAJORITIES:
        shape = replace(shape, least=shape.workers // 2 + 1)
    elif shape.ranks == 1 and not asked:
        faults += outsiders.draw(seed, shape, lambda random: _draw_place(random, shape, "", random.randrange(chosen)))
    return Schedule(seed, shape, tuple(faults))


def _draw_request(random: Random, at: Fault) -> Fault:
    """Draws what happens to a worker without disturbing it, in place of a fault."""
    kind, amount = random.choice([("stop", 0.0), ("spoil", math.nan), ("spoil", math.inf)])
    return replace(at, kind=kind, seconds=0.0, amount=amount, detail="", other=0)


def _draw_place(random: Random, shape: Shape, kind: str, worker: int) -> Fault:
    """Draws when a fault happens to a worker."""
    expected = 60 + 55 * shape.rounds * shape.fragments + 12 * shape.workers * shape.rounds * shape.fragments
    fault = Fault(kind=kind, worker=worker, point=random.randrange(1, expected), rank=random.randrange(shape.ranks))
    if random.random() < 0.7:
        phase, times = random.choice(PHASES), random.randint(1, shape.rounds * shape.fragments)
        fault = replace(fault, phase=phase, times=times, point=random.randint(0, 2 + 2 * shape.workers))
    return fault


def _draw_fault(random: Random, shape: Shape) -> Fault:
    kind, worker = random.choice(KINDS), random.randrange(shape.workers)
    fault = _draw_place(random, shape, kind, worker)
    short = random.choice([0.3, 1.0, 2.0, 4.0, 7.0, 15.0, 30.0]) * random.uniform(0.5, 1.5)
    match kind:
        case "kill":
            return replace(fault, seconds=short, detail=random.choice(["newest", "newest", "old", "none"]))
        case "tail":
            return replace(fault, seconds=short, amount=random.randint(1, 3), detail="newest")
        case "cut":
            least = EVERYONE if shape.ranks > 1 else LIGHTHOUSE
            others = [other for other in range(least, shape.workers) if other != worker]
            return replace(fault, other=random.choice(others), seconds=short, detail=random.choice(["", "both"]))
        case "message":
            return replace(fault, amount=random.randint(1, 4), detail=random.choice((*MESSAGES, "damaged")))
        case "reset":
            other = random.choice([other for other in range(shape.workers) if other != worker])
            return replace(fault, other=other, detail=random.choice(["", "", "all"]))
        case "lighthouse" if random.random() < 0.15:
            patience = shape.costs.quorum_timeout
            return replace(fault, seconds=random.uniform(patience, 1.5 * patience))
        case "slow":
            return replace(fault, seconds=short, amount=random.uniform(0.5, 8.0))
        case "lag":
            return replace(fault, seconds=30.0, amount=random.uniform(1.0, 30.0))
        case "jump":
            return replace(fault, amount=random.choice([0.5, 5.0, 60.0, 3600.0]))
        case _:
            return replace(fault, seconds=short)
