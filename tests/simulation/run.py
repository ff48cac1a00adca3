"""One simulated run: the world, its workers, and a supervisor that starts them again."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch

from muloco import errors, failpoints
from muloco.outer import AnchorMismatch, ForeignRun
from muloco.outer.protocol.authentication import Key
from muloco.outer.protocol.transport import TransportError
from tests.simulation.guard import Guard
from tests.simulation.invariants import Ledger, Violation
from tests.simulation.knowledge import Knowledge
from tests.simulation.lighthouse import Lighthouse
from tests.simulation.network import Network
from tests.simulation.poison import Poison
from tests.simulation.ranks import Ranks, machine
from tests.simulation.stops import Stops
from tests.simulation.storage import Storage
from tests.simulation.toy import Shape
from tests.simulation.watch import Watch
from tests.simulation.wire import seeded_nonces
from tests.simulation.worker import SimulatedWorker
from tests.simulation.world import Killed, Process, World

FIRST_BACK_OFF, LONGEST_BACK_OFF = 1.0, 60.0
OF_THE_TRAINER = ("inner_step", "checkpoint", "validation")
"""Failpoints that make no point of the world: a worker waits there anyway."""
LAST_SECONDS, FAILURE_SECONDS = 60.0, 3.0
"""See `muloco.launch.pool`."""
CALM_SECONDS = 20.0
"""Time after a fault within which workers that were killed or cut off are members again."""
PROGRESS_SECONDS = 400.0
"""A run is over this long after the last fault has passed."""

MOST_REMEMBERED = 64
"""Most rounds that a worker remembers (`muloco.outer.protocol.answers.KEPT`), and most tasks that it has at once."""


@dataclass(frozen=True)
class Outcome:
    """How a run has ended."""

    end: str
    """`done`, `lost` (nobody holds the state of the run any more), `failed as defined` (NaN or Inf), `corrupt` (flipped
    bits were noticed), `foreign` (a newcomer has met only a stranger, and took itself for it), or `failed`."""
    failure: BaseException | None
    story: list[tuple[float, str, str]]
    points: dict[str, int]
    """Points that each machine has come to."""
    seconds: float
    events: int
    fingerprint: int
    commits: int
    longest: float
    """Longest time until the next commit, while no fault lasted, in seconds."""


class Run:
    """A run of a shape in a world of its own.

    Args:
        shape: of the run.
        seed: of the world.
    """

    def __init__(self, shape: Shape, seed: int):
        self.shape = shape
        self.world = World(seed)
        self.network = Network(self.world, shape.costs)
        self.storage = Storage()
        self.ledgers = [Ledger(shape, rank) for rank in range(shape.ranks)]
        self.ledger = self.ledgers[0]
        self.watches = [Watch(ledger, shape.costs.exchange_timeout) for ledger in self.ledgers]
        self.knowledge = Knowledge(self.network, self.storage)
        self.stops, self.poison = Stops(), Poison()
        self.strangers: dict[str, str] = {}
        """The kind of each stranger, by machine."""
        self.guards = [Guard(ledger, self.strangers) for ledger in self.ledgers]
        self.troubled = -CALM_SECONDS
        """Time at which the last fault that may disturb workers has passed."""
        self.key = Key(b"the secret of a simulated run")
        self.attempt = 1
        self.end = ""
        self.ranks: dict[int, Ranks] = {}
        """The ranks of each worker."""
        self.doubles: dict[int, Ranks] = {}
        """Second processes of workers of one rank."""
        self.lines: list[dict[str, Any]] = []
        """What the workers log, as lines of metrics (`muloco.runs.folder`)."""
        self.lighthouse = Lighthouse(
            self.network,
            least=shape.least,
            join_timeout=shape.costs.straggler_timeout,
            beat_timeout=shape.costs.heartbeat_timeout,
        )
        self._back_off = dict.fromkeys(range(shape.workers), FIRST_BACK_OFF)
        self._done = False
        self._refused: set[Ranks] = set()
        """Those that have ended by an error that lasts, as they have to."""
        self._mismatched: set[Process] = set()
        self._restarting = 0
        for worker in range(shape.workers):
            self.start(worker, after=self.world.random.uniform(0.0, 1.0))

    def start(self, worker: int, *, after: float, state: str = "newest") -> None:
        """Starts a worker's process after some seconds, from its `newest` checkpoint, an `old` one, or `none`."""
        self._restarting += 1
        self.world.at(after, partial(self._start, worker, state, self.attempt))

    def kill(self, worker: int, rank: int, *, restart: float, state: str) -> None:
        """Kills a worker's process, that of a rank, with which the others end. They are started again after so many
        seconds."""
        process = self.process(worker, rank)
        if process is not None and process.alive and not self.ranks[worker].ending:
            self.world.tell(process.name, f"is killed; it starts again in {restart:.1f} s with {state} state")
            process.kill()
            self._start_again(worker, self.ranks[worker].end() + restart, state)

    def process(self, worker: int, rank: int) -> Process | None:
        """Returns the last process of a rank of a worker."""
        return self.ranks[worker].processes[rank] if worker in self.ranks else None

    def program(self, worker: int, rank: int) -> SimulatedWorker | None:
        """Returns the program of a rank of a worker, if it has begun."""
        return self.ranks[worker].programs.get(rank) if worker in self.ranks else None

    def is_calm(self) -> bool:
        """Whether no fault disturbs workers now, or has done so a short while ago."""
        return self.world.now > max(self.ledger.disturbed, self.ledger.unmet, self.troubled + CALM_SECONDS)

    def log(self, worker: int, step: int, event: str, **values: Any) -> None:
        """Adds a line to the metrics of a worker."""
        place = {"attempt": self.attempt, "time": self.world.now, "worker": worker, "step": step}
        self.lines.append({**place, "event": event, **values})

    def _start(self, worker: int, state: str, attempt: int) -> None:
        self._restarting -= 1
        if attempt != self.attempt or self._done:
            self._look_for_end()
            return
        processes = [
            Process(self.world, f"worker {worker}{f' rank {rank}' if rank else ''}", machine(worker, rank))
            for rank in range(self.shape.ranks)
        ]
        self.ranks[worker] = ranks = Ranks(self.network, self.lighthouse, self.ledger, worker, processes)
        step = self._saved_step(worker, state)
        for rank, process in enumerate(processes):
            self.world.spawn(process, partial(self._main, worker, ranks, rank, step), "main")

    def _saved_step(self, worker: int, state: str) -> int | None:
        """Returns the step of a worker's `newest` checkpoint, an `old` one, or `none`."""
        parts = {(worker, rank) for rank in range(self.shape.ranks)}
        steps = [step for step in self.storage.whole if parts <= set(self.storage.checkpoints[step])]
        steps = {"newest": steps[-1:], "old": steps[:-1][-1:], "none": []}[state]
        return steps[0] if steps else None

    def double(self, worker: int, first: Process, state: str) -> None:
        """Starts a second process of a worker on another machine, as a supervisor that has lost sight of the first
        one; unless this one has ended."""
        if self._done or not first.alive or worker in self.doubles:
            return
        process = Process(self.world, f"worker {worker} (second)", f"d{worker}")
        self.doubles[worker] = ranks = Ranks(self.network, self.lighthouse, self.ledger, worker, [process])
        self.world.spawn(process, partial(self._main, worker, ranks, 0, self._saved_step(worker, state)), "main")

    def _main(self, worker: int, ranks: Ranks, rank: int, step: int | None) -> None:
        status, reason, process = 0, "", ranks.processes[rank]
        try:
            saved = None if step is None else self.storage.checkpoints[step][worker, rank]
            how = "afresh" if step is None else f"with the checkpoint of step {step}"
            self.world.tell(process.name, f"starts {how}")
            ranks.programs[rank] = program = SimulatedWorker(self, worker, ranks, rank)
            program.train(saved)
        except (Killed, Violation):
            raise
        except Exception as error:
            self.world.here()
            status, reason = errors.exit_status(error), f"{type(error).__name__}: {error}"
            lost = isinstance(error, errors.AttemptFailed | TransportError) or self.shape.ranks > 1
            expected = lost and status not in errors.LASTING
            defined = self.poison.is_defined(error, self.ledgers[rank]) or self._has_to_end(worker, ranks, error)
            if not expected and not defined:
                raise
            if status == errors.FAILED and self.strangers and self.world.now > self.ledger.harmed + 3 * CALM_SECONDS:
                raise Violation(f"worker {worker} gives up, though only strangers are about: {error}") from error
        self.world.here()
        self.world.tell(process.name, f"ends with status {status}{reason and ': '}{reason}")
        process.kill()
        ranks.statuses[rank] = status
        if status and not ranks.ending:
            self.world.at(ranks.end(), lambda: self._ended(worker, ranks, ranks.status()))
        elif not ranks.ending and len(ranks.statuses) == len(ranks.processes):
            self.world.at(0.0, partial(self._ended, worker, ranks, 0))

    def _has_to_end(self, worker: int, ranks: Ranks, error: Exception) -> bool:
        """Whether the engine has to end the process of a worker by an error that lasts, because of another process of
        the worker, of a stranger or of flipped bits."""
        (process, *_) = ranks.processes
        match error:
            case ForeignRun():
                all_ranks = chain(self.ranks.values(), self.doubles.values())
                living = {other.machine: other for of in all_ranks for other in of.processes if other.alive}
                if self.guards[0].refused(worker, process, living) == "newcomer":
                    self.world.at(LAST_SECONDS, lambda: self._stop("foreign"))
            case AnchorMismatch() if self.ledger.flipped:
                self._all_mismatch(process)
            case _:
                return False
        self._refused.add(ranks)
        return True

    def _all_mismatch(self, process: Process) -> None:
        """A process has noticed that anchors or momentums differ; soon, all members of the round have."""
        self._mismatched.add(process)
        if len(self._mismatched) > 1:
            return
        met = next(met for met in reversed(self.ledger.rounds.values()) if process in met)
        calm = self.world.now > self.ledger.harmed + CALM_SECONDS

        def look() -> None:
            missing = [other.name for other in met if other.alive]
            if missing and calm and self.ledger.harmed < self.world.now - 2 * CALM_SECONDS:
                raise Violation(f"anchors differ, and {', '.join(sorted(missing))} did not notice")
            self._stop("corrupt")

        self.world.at(CALM_SECONDS, look)

    def _ended(self, worker: int, ranks: Ranks, status: int) -> None:
        """The supervisor notices that a process has ended by itself."""
        second = ranks is self.doubles.get(worker)
        if second:
            del self.doubles[worker]
        if ranks in self._refused or (second and status):  # it is not started again
            if ranks is self.ranks[worker] and worker in self.doubles:
                self.ranks[worker] = self.doubles.pop(worker)
        elif status == errors.RunFailed.exit_status:
            self.poison.ended(self, worker)
            if not self.end:
                self.end, self._done = "failed as defined", True
                self.world.at(FAILURE_SECONDS, lambda: self._stop(self.end))
        elif status == errors.AttemptFailed.exit_status and not self._done:
            self.ledger.is_lost(self.world.now)
            self._resume()
        elif status == 0:
            if not self._done:  # the pool starts no worker again, and waits for those that run
                self._done = True
                self.world.at(LAST_SECONDS, lambda: self._stop("done"))
        else:
            self._start_again(worker, self._back_off[worker], "newest")
            self._back_off[worker] = min(2 * self._back_off[worker], LONGEST_BACK_OFF)
        self._look_for_end()

    def _start_again(self, worker: int, after: float, state: str) -> None:
        if not self._done:
            self.start(worker, after=after, state=state)
        else:
            self._look_for_end()

    def _resume(self) -> None:
        """Begins another attempt at the run from its newest checkpoint, if there is one."""
        for ranks in chain(self.ranks.values(), self.doubles.values()):
            for process in ranks.processes:
                process.kill()
        self.doubles.clear()
        if self.storage.newest() is None:
            self._stop("lost")
            return
        self.attempt += 1
        for ledger in self.ledgers:
            ledger.attempt = self.attempt
        self.world.tell("the supervisor", f"begins attempt {self.attempt} from step {self.storage.newest()}")
        for worker in range(self.shape.workers):
            self.start(worker, after=self.world.random.uniform(1.0, 2.0))

    def _look_for_end(self) -> None:
        all_ranks = chain(self.ranks.values(), self.doubles.values())
        alive = any(process.alive for ranks in all_ranks for process in ranks.processes)
        if not self._restarting and not alive and not self._mismatched:
            self._stop("done")

    def _stop(self, end: str) -> None:
        self.end = self.end or end
        if self.end == "done":
            self.stops.check_end(self)
            self._check_hanging()
        self.poison.check_end()
        self.world.stop()

    def carry_out(self, *, told: bool = False) -> Outcome:
        """Runs it, and returns how it has ended. The story has what the workers log only if it is to be `told`."""
        world = self.world
        with seeded_nonces(world), _failpoints(self), _logging(world, told=told):
            why = world.run()
        if why in ("stuck", "time", "events"):
            world.failure = Violation(
                {
                    "stuck": "nobody can go on",
                    "time": f"the run is not over at {world.now:.0f} s",
                    "events": f"the run goes round in circles ({world.events} events)",
                }[why]
            )
        elif world.failure is None:
            world.failure = self._too_much()
        return Outcome(
            end="failed" if world.failure is not None else self.end,
            failure=world.failure,
            story=world.story,
            points={},
            seconds=world.now,
            events=world.events,
            fingerprint=world.fingerprint(),
            commits=self.ledger.commits,
            longest=self.ledger.longest,
        )

    def _too_much(self) -> Violation | None:
        """Whether the memory that the protocol has used is not bounded."""
        most = (
            4 * self.shape.workers * self.shape.ranks
        )  # entries of two groups: the present one, and one that was not cleared
        for address, store in self.network.stores.items():
            # a quorum with strangers leaves its entries in the store, because these may still be reading them
            if len(store.values) > most and store.process.alive and not self.strangers:
                return Violation(f"the store at {address} holds {len(store.values)} entries")
        for worker, ranks in self.ranks.items():
            for program in ranks.programs.values():
                sizes = program.remembered()
                if max(sizes) > MOST_REMEMBERED:
                    return Violation(f"worker {worker} remembers {sizes} rounds, questions and tasks")
        return None

    def _check_hanging(self) -> None:
        """Whether workers still run long after others have ended, though nothing has disturbed them. Fewer than make a
        round cannot meet any more: the pool ends them."""
        left = [worker for worker, ranks in self.ranks.items() if any(process.alive for process in ranks.processes)]
        long_healed = self.world.now > max(self.ledger.healed, self.ledger.disturbed) + LAST_SECONDS
        if len(left) >= self.shape.least and (self.is_calm() or long_healed):
            raise Violation(f"workers {left} still run when all others have long been done")


@contextlib.contextmanager
def _failpoints(run: Run) -> Iterator[None]:
    """Within the context the failpoints of the engine are points of the world."""

    def listen(failpoint: str) -> None:
        if failpoint in OF_THE_TRAINER:
            return
        run.world.point(f"is at {failpoint}")
        if failpoint in ("open", "headers"):  # it looks for the others, and it has met some
            for ledger in run.ledgers:
                ledger.opens(run.world.here().process, run.world.now)

    failpoints.on_hit(listen)
    try:
        yield
    finally:
        failpoints._listeners.remove(listen)


@contextlib.contextmanager
def _logging(world: World, *, told: bool) -> Iterator[None]:
    """Within the context the engine logs nothing, or into the story."""
    logger = logging.getLogger("muloco")
    teller = _Teller(world)
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO if told else logging.CRITICAL + 1)
    logger.propagate = False
    logger.addHandler(teller)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        logger.removeHandler(teller)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Teller(logging.Handler):
    """Adds what a worker logs to the story."""

    def __init__(self, world: World):
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if self._world.current is not None:
            self._world.tell(self._world.current.process.name, f"says: {record.getMessage()}")
