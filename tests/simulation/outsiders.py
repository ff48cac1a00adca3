"""Faults that come from outside the run, or from where none is expected: strangers, forgers, a second process of a
worker, flipped bits, damaged commit logs."""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import torch

from tests.simulation.fault import Fault
from tests.simulation.forger import HOWS
from tests.simulation.network import TRIED_SECONDS
from tests.simulation.ranks import machine
from tests.simulation.strangers import KINDS as STRANGERS
from tests.simulation.strangers import Stranger
from tests.simulation.toy import Shape
from tests.simulation.world import Process, Violation

if TYPE_CHECKING:
    from tests.simulation.run import Run

KINDS = (
    "stranger",  # comes as worker `other` for `seconds`, and may stand still for `amount` of them; detail: which kind
    "stranger",
    "stranger",
    "stranger",
    "double",  # a second process of a worker starts, with its `newest` checkpoint, an `old` one or `none`
    "double",  # after `amount` seconds, for which the first one stands still or is cut off (`other`)
    "flip",  # a bit of the `anchor` or the `momentum` of a worker, the one of number `amount`
    "flip",
    "entries",  # in the stores are forged for `seconds`, while a worker has to meet the others anew
    "entries",
    "forgery",  # the next `amount` messages of a worker to members of its group are forged
    "requests",  # the next `amount` requests of a worker are forged, and others are sent in its name
    "answers",  # the next `amount` answers to a worker are forged
    "log",  # lines of a worker's commit log are damaged (`digits`, `zeros`, `torn`), and its process is killed
)
FORGERIES = ("entries", "forgery", "requests", "answers")
HEALING_SECONDS = 100.0
SHARE = 0.4
"""Share of the schedules that have one of these faults, or two, among those in which they may happen: workers have one
rank, the rounds need no majority, nobody is asked to stop, and there is no theme."""


def happen(fault: Fault, run: "Run") -> None:
    """Lets a fault of one of these kinds happen now."""
    world, ledger, forger, worker = run.world, run.ledger, run.network.forger, fault.worker
    me, process, name = machine(worker), run.process(worker, 0), f"worker {worker}"
    if fault.kind in ("entries", "requests", "answers"):  # whoever is not believed is not heard
        ledger.disturbed = max(ledger.disturbed, world.now + fault.seconds + HEALING_SECONDS)
    match fault.kind:
        case "stranger":
            place = ("first", "among", "last")[fault.point % 3]
            stranger = Stranger(run, fault.detail, fault.other, place).process
            world.at(fault.seconds, stranger.kill)
            if fault.amount:
                ledger.held_up = True
                world.at(fault.seconds / 3, stranger.pause)
                world.at(fault.seconds / 3 + fault.amount, stranger.resume)
        case "double" if process is not None and process.alive and worker not in run.doubles:
            _is_lost_sight_of(fault, run, process)
            world.at(fault.amount, lambda: run.double(worker, process, fault.detail))
        case "flip" if process is not None and process.alive:
            _flip(fault, run, process)
        case "entries":
            world.tell("a forger", f"begins to forge entries for {fault.seconds:.1f} s: {fault.detail}")
            forger.forge_entries(fault.detail, fault.seconds)
            run.network.reset(me, None)
        case "forgery":
            world.tell("a forger", f"the next {fault.amount:.0f} messages of {name}: {fault.detail}")
            run.network.mishaps[me] = [fault.detail] * int(fault.amount)
        case "requests":
            forger.requests[me] = [fault.detail] * int(fault.amount)
            _pester(run)
        case "answers":
            forger.answers[me] = [fault.detail] * int(fault.amount)
        case "log":
            world.tell("the storage", f"damages the commit log of {name}: {fault.detail}")
            ledger.forgetful = True
            run.storage.damage(worker, fault.detail, world.random)
            run.kill(worker, 0, restart=fault.seconds, state="newest")


def _is_lost_sight_of(fault: Fault, run: "Run", process: Process) -> None:
    """A process stands still, or is cut off, and goes on later."""
    world = run.world
    if fault.other == 1:
        world.tell(process.name, f"is stopped for {fault.seconds:.1f} s")
        process.pause()
        world.at(fault.seconds, process.resume)
    elif fault.other == 2:
        world.tell("the network", f"carries nothing from or to {process.name} for {fault.seconds:.1f} s")
        run.network.isolate(process.machine, fault.seconds)
    if fault.other and fault.seconds > TRIED_SECONDS:
        run.ledger.disturbed = max(run.ledger.disturbed, world.now + fault.seconds + HEALING_SECONDS)


def _flip(fault: Fault, run: "Run", process: Process) -> None:
    view = run.ledger.view_of(process)
    program = run.program(fault.worker, 0)
    if view is None or program is None:
        return
    tensors = [
        tensor
        for fragment in program.loop.fragments
        for kind, tensors in fragment.global_tensors().items()
        for tensor in tensors.values()
        if (kind == "anchor") == (fault.detail == "anchor")
    ]
    bit = int(fault.amount) % (32 * sum(tensor.numel() for tensor in tensors))
    for tensor in tensors:
        if bit < 32 * tensor.numel():
            words = tensor.view(-1).view(torch.int32)
            words[bit // 32] ^= torch.tensor(1 << bit % 32, dtype=torch.int64).to(torch.int32)
            break
        bit -= 32 * tensor.numel()
    run.world.tell(process.name, f"a bit of its {fault.detail} is flipped")
    view.corrupt = run.ledger.flipped = True


def _pester(run: "Run") -> None:
    """Sends requests that nobody who holds the secret has made."""
    process = Process(run.world, "a forger", "forger")

    def pester() -> None:
        for address, message in run.network.forger.pesters():
            try:
                status = run.network.ask(process, address, message, TRIED_SECONDS)[0]
            except OSError:
                continue
            if status != 403:
                raise Violation(f"a forged request is answered with status {status}")

    run.world.spawn(process, pester, "pesters")


def draw(seed: int, shape: Shape, place: Callable[[Random], Fault]) -> list[Fault]:
    """Draws the faults of these kinds of a schedule: most often none.

    Args:
        seed: of the schedule.
        shape: of the run.
        place: returns a fault at a random place.
    """
    random = Random(f"outsiders {seed}")
    if random.random() > SHARE:
        return []
    return [_draw(random, shape, place(random)) for _ in range(random.choice([1, 1, 2]))]


def _draw(random: Random, shape: Shape, fault: Fault) -> Fault:
    kind = random.choice(KINDS)
    short = random.choice([1.0, 3.0, 6.0, 12.0, 30.0]) * random.uniform(0.5, 1.5)
    fault = replace(fault, kind=kind, detail=random.choice(HOWS.get(kind, ("",))), amount=random.randint(1, 4))
    match kind:
        case "stranger":
            stay = random.choice([3.0, 12.0, 40.0]) * random.uniform(0.8, 1.2)
            pause = random.choice([0.0, 0.0, 2.0, 8.0])
            early = replace(fault, phase="", point=random.randint(1, 120)) if random.random() < 0.7 else fault
            other = random.randrange(shape.workers)
            return replace(early, other=other, seconds=stay, amount=pause, detail=random.choice(STRANGERS))
        case "double":
            state = random.choice(["newest", "newest", "old", "none"])
            return replace(fault, other=random.randrange(3), seconds=short, amount=random.uniform(0, 10), detail=state)
        case "flip":
            return replace(fault, amount=random.randrange(1024), detail=random.choice(["anchor", "momentum"]))
        case "entries":
            return replace(fault, seconds=random.uniform(1.0, 8.0))
        case "forgery":
            fault = replace(fault, detail=random.choice(HOWS["messages"]))
            phase = random.choice(["headers", "scatter"]) if fault.detail == "forged" else "vote"
            times = random.randint(1, shape.rounds * shape.fragments)
            return replace(fault, phase=phase, times=times, point=random.randint(0, 6 + 4 * shape.workers))
        case "log":
            return replace(fault, seconds=short, detail=random.choice(["digits", "digits", "zeros", "torn"]))
    return fault
