"""The ranks of a worker: processes that meet each other, do the same, and end together."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from muloco.errors import FAILED as FAILED_STATUS
from muloco.errors import AttemptFailed, RunFailed, UserError
from muloco.outer import OuterLoop
from muloco.outer.protocol.answers import COMMITTED, FAILED
from muloco.outer.protocol.outcome import Committed
from muloco.outer.protocol.peer_transport import PeerTransport
from tests.simulation.lighthouse import Lighthouse, Manager, Member, Met
from tests.simulation.network import Network
from tests.simulation.store import Store
from tests.simulation.world import Process, Violation

if TYPE_CHECKING:
    from tests.simulation.invariants import Ledger
    from tests.simulation.worker import SimulatedWorker

LONGEST_WAIT_SECONDS = 30.0
"""Longest time for which a rank waits for the others of its worker, if all can hear each other."""
LONGEST_END_SECONDS = 1.0
"""Longest time after which torchrun ends the other ranks of one that has ended."""


def machine(worker: int, rank: int = 0) -> str:
    """Returns the name of the machine of a rank."""
    return of_rank(f"m{worker}", rank)


def of_rank(first: str, rank: int) -> str:
    """Returns the name of the machine of a rank, given that of the first one."""
    return f"{first}.{rank}" if rank else first


class Ranks:
    """The ranks of a worker since its last start. All of them reach each other through the first one, in whose process
    the server of torchft's manager runs.

    Args:
        network: on which.
        lighthouse: where the worker meets others.
        ledger: it says until when ranks may not hear each other.
        worker: its number.
        processes: one for each rank.
    """

    def __init__(
        self, network: Network, lighthouse: Lighthouse, ledger: "Ledger", worker: int, processes: Sequence[Process]
    ):
        self.processes = processes
        self.programs: dict[int, SimulatedWorker] = {}
        self.statuses: dict[int, int] = {}
        """Exit statuses of the ranks that have ended by themselves."""
        self.ending = False
        """Whether a rank has ended, so that torchrun ends the others."""
        self.replica = self.store = ""
        self.manager: Manager
        self._serial = 0
        self._network, self._world, self._lighthouse = network, network.world, lighthouse
        self._ledger, self._worker = ledger, worker
        self._places: dict[str, dict[int, tuple[Any, Callable[[Any], None]]]] = {}
        """Who waits at which place, with what it has brought, and how it is told the answer."""
        self._done: list[list[str]] = [[] for _ in processes]

    def introduce(self, name: str) -> int:
        """Registers the worker at the lighthouse, once, and returns the serial number of its store."""
        if not self.replica:
            first, self._serial = self.processes[0], len(self._network.stores)
            self.replica = f"{name}:{self._world.random.getrandbits(64):016x}"
            self.store = f"{first.machine}:{10000 + self._serial}"
            Store(self._network, first, self.store)
            self.manager = self._lighthouse.register(first, self.replica)
        return self._serial

    def close(self) -> None:
        """Leaves the lighthouse."""
        self._lighthouse.close(self.manager)

    def gather(self, place: str, rank: int, value: Any, seconds: float) -> list[Any]:
        """Returns what each rank has brought to a place, by rank, once all are there.

        Raises:
            TimeoutError: a rank does not come within so many seconds.
        """
        return [value] if len(self.processes) == 1 else self._meet(place, rank, value, seconds)

    def quorum(self, rank: int, asks: Member, seconds: float) -> Met:
        """Returns the next quorum, which the manager asks for once all ranks have.

        Raises:
            TimeoutError: there is none within so many seconds.
        """
        if len(self.processes) == 1:
            return self._lighthouse.ask(self.processes[0], asks, seconds)
        return self._meet("quorum", rank, asks, seconds, self._ask)

    def did(self, rank: int, what: str) -> None:
        """A rank has done something that all ranks have to do alike, in the same order."""
        own = self._done[rank]
        for other, theirs in enumerate(self._done):
            if len(theirs) > len(own) and theirs[len(own)] != what:
                raise Violation(
                    f"the ranks of worker {self._worker} do not do the same: rank {rank} {what}, and rank {other} "
                    f"{theirs[len(own)]}"
                )
        own.append(what)

    def status(self) -> int:
        """Returns the exit status of the worker; see `muloco.launch.torchrun`."""
        meant = (UserError.exit_status, RunFailed.exit_status, AttemptFailed.exit_status)
        return next((status for status in meant if status in self.statuses.values()), FAILED_STATUS)

    def watch(self, rank: int, transport: PeerTransport, loop: OuterLoop) -> None:
        """Watches that a rank does what the others do."""
        if len(self.processes) == 1:
            return
        answers, membership = transport.answers, loop.membership
        say, commit = answers.say, membership.commit

        def says(name: str, outcome: str) -> None:
            if outcome in (COMMITTED, FAILED):
                self.did(rank, f"finds a round {outcome}")
            say(name, outcome)

        def commits(committed: Committed) -> None:
            self.did(rank, f"applies fragment {committed.fragment} of {committed.weights} after step {committed.step}")
            commit(committed)

        answers.say, membership.commit = says, commits  # type: ignore[method-assign]

    def end(self) -> float:
        """Ends the ranks that are left, as torchrun does if one has ended. Returns after how many seconds."""
        self.ending = True
        left = [process for process in self.processes if process.alive]
        if not left:
            return 0.0
        after = self._world.random.uniform(0.0, LONGEST_END_SECONDS)
        for process in left:
            self._world.at(after, process.kill)
        return after

    def _meet(
        self,
        place: str,
        rank: int,
        value: Any,
        seconds: float,
        ask: Callable[[Any, float], Any] | None = None,
    ) -> Any:
        world, network, first, process = self._world, self._network, self.processes[0], self.processes[rank]
        world.point("meets the other ranks")
        task, answers = world.here(), []
        here = self._places.setdefault(place, {})

        def is_told(answer: Any) -> None:
            answers.append(answer)
            world.wake(task)

        def answer(answer: Any) -> None:
            network.send(first, process.machine, partial(is_told, answer), process, (first, process))

        def comes() -> None:
            here[rank] = value, answer
            if len(here) < len(self.processes):
                return
            brought, tell = [here[r][0] for r in range(len(here))], [here[r][1] for r in range(len(here))]
            here.clear()
            if ask is None:
                for one in tell:
                    one(brought)
            else:
                world.spawn(first, partial(_tell_all, tell, partial(ask, value, seconds)), "quorum")

        network.send(process, first.machine, comes, first, (process, first))
        started = world.now
        while not answers and world.now < started + seconds:
            world.wait(min(LONGEST_WAIT_SECONDS, started + seconds - world.now))
            waited = world.now - started
            if not answers and here and waited >= LONGEST_WAIT_SECONDS and not self.ending:
                self._is_late(f"rank {rank} of worker {self._worker} waits for others at {place!r}")
        if not answers:
            raise TimeoutError(f"the ranks of this worker did not meet within {seconds:g} s ({place})")
        return answers[0]

    def _ask(self, asks: Member, seconds: float) -> Met:
        return self._lighthouse.ask(self.processes[0], asks, seconds)

    def _is_late(self, what: str) -> None:
        if self._world.now > max(self._ledger.disturbed, self._ledger.unmet):
            raise Violation(f"{what}, though all can hear each other")


def _tell_all(tell: Sequence[Callable[[Any], None]], ask: Callable[[], Any]) -> None:
    try:
        answer = ask()
    except TimeoutError:  # torchft's server tells nobody
        return
    for one in tell:
        one(answer)
