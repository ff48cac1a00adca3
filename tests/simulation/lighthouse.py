"""A model of torchft's lighthouse, and of what a worker's manager asks of it (torchft 0.2.0, src/lighthouse.rs and
src/manager.rs).

Heartbeats are not sent one by one: whether a manager beats follows from whether its process runs and the network lets
it through. Managers beat every 0.1 s; the lighthouse looks every 0.1 s, and upon each request.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.network import Network
from tests.simulation.world import Process

BEAT_SECONDS = TICK_SECONDS = 0.1
MACHINE = "lighthouse"


@dataclass(frozen=True)
class Member:
    """A replica that asks for a quorum."""

    replica: str
    """Its name, with an addition that is another one after each restart."""
    store: str
    """Address of its store."""
    commit_failures: int = 0


@dataclass(frozen=True)
class Met:
    """A quorum."""

    number: int
    members: tuple[Member, ...]


@dataclass
class State:
    """What a lighthouse knows."""

    least: int
    join_timeout: float
    beat_timeout: float
    number: int = 0
    previous: tuple[Member, ...] | None = None
    asking: dict[str, tuple[float, Member]] = field(default_factory=dict)
    """Since when each replica has been asking, and as what."""
    waiting: list[tuple[Member, Callable[[Met], None]]] = field(default_factory=list)
    """The requests that have no answer yet."""

    def compute(self, now: float, beats: dict[str, float]) -> tuple[Member, ...] | None:
        """Returns the members of the quorum that is there now, if there is one.

        Args:
            now: the time.
            beats: the last heartbeat of each replica.
        """
        healthy = {replica for replica, last in beats.items() if now - last < self.beat_timeout}
        present = {replica: asked for replica, asked in self.asking.items() if replica in healthy}
        members = tuple(member for _, (_, member) in sorted(present.items()))
        if self.previous is not None and all(member.replica in present for member in self.previous):
            return members
        if len(present) < self.least or len(present) <= len(healthy) // 2:
            return None
        first = min((since for since, _ in present.values()), default=now)
        if len(present) < len(healthy) and now - first < self.join_timeout:
            return None
        return members

    def decide(self, now: float, beats: dict[str, float]) -> Met | None:
        """Returns the quorum that is there now, if there is one, and begins to gather the next one."""
        members = self.compute(now, beats)
        if members is None:
            return None
        before = None if self.previous is None else [member.replica for member in self.previous]
        failed = any(member.commit_failures for member in members)
        if before != [member.replica for member in members] or failed:
            self.number += 1
        self.previous = members
        self.asking.clear()
        return Met(self.number, members)


class Manager:
    """The heartbeats of a worker's process.

    Args:
        process: of the worker.
        replica: see `Member`.
        began: the time at which it began to beat.
    """

    def __init__(self, process: Process, replica: str, began: float):
        self.process, self.replica, self.began = process, replica, began
        self.closed = False


class Lighthouse:
    """A lighthouse on a machine of its own.

    Args:
        network: on which.
        least: fewest members of a quorum.
        join_timeout: seconds for which those that ask wait for those that only beat.
        beat_timeout: seconds without a heartbeat after which a replica counts as dead.
    """

    def __init__(self, network: Network, *, least: int, join_timeout: float, beat_timeout: float):
        self.network, self.world = network, network.world
        self.slow = 0.0
        """Seconds that each of its answers takes longer."""
        self._settings = {"least": least, "join_timeout": join_timeout, "beat_timeout": beat_timeout}
        self._managers: dict[str, Manager] = {}
        self._beats: dict[str, float] = {}
        """The last heartbeat of each replica that does not beat now."""
        self._tick_at = -1.0
        self._found: dict[str, float] = {}
        """For each replica, when it has found this lighthouse."""
        self._ended = 0.0
        network.on_change.append(self._note)
        self.start()

    def start(self) -> None:
        """Starts the lighthouse, which knows nothing of earlier ones."""
        self.process = Process(self.world, "the lighthouse", MACHINE)
        self.state = State(**self._settings)
        self._beats.clear()
        self._started = self.world.now
        self._found.clear()
        self._tick_at = -1.0
        self.world.tell("the lighthouse", "starts")

    def restart(self, seconds: float) -> None:
        """Ends the lighthouse, and starts another one after so many seconds."""
        if self.process.alive:
            self.world.tell("the lighthouse", f"is killed, and starts again in {seconds:.1f} s")
            self._ended = self.world.now
            self.process.kill()
            self.world.at(seconds, self.start)

    def finds_at(self, replica: str) -> float:
        """Returns when a manager finds this lighthouse: managers look for it after pauses that become longer and longer
        while it is away (`retry_backoff` of torchft, from 0.1 s on, half as long again each time, at most 10 s)."""
        if replica not in self._found:
            away = self._started - self._ended if self._ended else 0.0
            self._found[replica] = self._started + self.world.random.uniform(0.1, 0.1 + min(10.0, away / 2))
        return self._found[replica]

    def register(self, process: Process, replica: str) -> Manager:
        """Begins the heartbeats of a worker's process."""
        manager = self._managers[replica] = Manager(process, replica, self.world.now)
        process.on_change.append(self._note)
        return manager

    def close(self, manager: Manager) -> None:
        """Ends the heartbeats of a manager."""
        self._note()
        manager.closed = True

    def ask(self, source: Process, member: Member, seconds: float) -> Met:
        """Asks for a quorum, as the server of a manager does: it asks again if the lighthouse does not answer.

        Raises:
            TimeoutError: there is none within so many seconds.
        """
        world, network = self.world, self.network
        task, deadline = world.here(), world.now + seconds
        while world.now < deadline:
            world.point("asks the lighthouse")
            answers: list[Met | None] = []
            lighthouse = self.process

            def arrives(answer: Met | None, answers: list = answers) -> None:
                answers.append(answer)
                world.wake(task)

            def breaks(lighthouse: Process = lighthouse, arrives: Callable = arrives) -> None:
                network.send(lighthouse, source.machine, lambda: arrives(None), source)

            def answer(met: Met, lighthouse: Process = lighthouse, arrives: Callable = arrives) -> None:
                delay = network.delay(MACHINE, source.machine) + self.slow
                if delay < float("inf"):
                    world.at(delay, lambda: arrives(met), source)

            def request(lighthouse: Process = lighthouse, breaks: Callable = breaks, answer: Callable = answer) -> None:
                if not lighthouse.alive or lighthouse is not self.process:
                    breaks()
                    return
                lighthouse.on_end.append(breaks)
                world.at(self.slow, lambda: self._request(source, member, answer), lighthouse)

            network.send(source, MACHINE, request)
            while not answers and world.now < deadline:
                world.wait(deadline - world.now)
            if breaks in lighthouse.on_end:
                lighthouse.on_end.remove(breaks)
            if answers and answers[0] is not None:
                return answers[0]
            back_off = self._started - self._ended if self.process.alive else world.now - self._ended
            world.wait(max(0.0, min(1.0 + world.random.uniform(0.0, min(10.0, back_off / 2)), deadline - world.now)))
        raise TimeoutError(f"no quorum within {seconds:g} s")

    def beats(self) -> dict[str, float]:
        """Returns the time of the last heartbeat of each replica."""
        beating = {manager.replica: self.world.now for manager in self._managers.values() if self._beating(manager)}
        return self._beats | beating

    def look(self) -> None:
        """Answers the requests for which there is a quorum."""
        if not self.process.alive:
            return
        world, state = self.world, self.state
        met = state.decide(world.now, self.beats())
        if met is not None:
            names = ", ".join(member.replica.partition(":")[0] for member in met.members)
            world.tell("the lighthouse", f"makes quorum {met.number} of {names}")
            waiting, state.waiting = state.waiting, []
            for member, answer in waiting:
                if any(other.replica == member.replica for other in met.members):
                    answer(met)
                else:  # it goes on asking
                    state.asking[member.replica] = (world.now, member)
                    state.waiting.append((member, answer))
        self._look_later()

    def _request(self, source: Process, member: Member, answer: Callable[[Met], None]) -> None:
        self._beats[member.replica] = self.world.now
        self.state.asking[member.replica] = (self.world.now, member)
        self.state.waiting.append((member, answer))
        self.look()

    def _look_later(self) -> None:
        """Looks again when a replica falls silent or a wait is over."""
        state, now = self.state, self.world.now
        if not state.asking:
            return
        times = [last + state.beat_timeout for last in self.beats().values() if last < now]
        times += [since + state.join_timeout for since, _ in state.asking.values()]
        later = min((time for time in times if time > now), default=None)
        if later is None or 0 < self._tick_at <= later + TICK_SECONDS:
            return
        at = self._tick_at = later + self.world.random.uniform(0.001, TICK_SECONDS)

        def tick() -> None:
            if self._tick_at == at:
                self._tick_at = -1.0
            self.look()

        self.world.at(at - now, tick, self.process)

    def _beating(self, manager: Manager) -> bool:
        process = manager.process
        return (
            self.process.alive
            and process.alive
            and not process.paused
            and not manager.closed
            and self.world.now >= max(manager.began + BEAT_SECONDS, self.finds_at(manager.replica))
            and not self.network.silent(process.machine, MACHINE)
            and not self.network.silent(MACHINE, process.machine)  # a manager waits for each answer
        )

    def _note(self) -> None:
        """Something is about to change: notes which replicas beat until now."""
        for replica, manager in list(self._managers.items()):
            if self._beating(manager):
                self._beats[replica] = self.world.now
            if not manager.process.alive or manager.closed:
                del self._managers[replica]
        self.world.at(BEAT_SECONDS, self.look, self.process)
