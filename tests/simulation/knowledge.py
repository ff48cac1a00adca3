"""What a worker may believe of the rounds that others have committed: no more than is so, and no less than it can see.

The logs of all workers and the answers of those that it has met are two ways to learn of a round. Where nothing hides
or delays one of them, the worker has to know what it shows.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from muloco.outer import OuterLoop
from muloco.outer.protocol.outcome import CatchUp
from muloco.outer.protocol.peer_round import PeerRound
from muloco.outer.protocol.peer_transport import PeerTransport
from muloco.runs.commits import Commit
from tests.simulation.network import Network
from tests.simulation.storage import Storage
from tests.simulation.world import Process, Violation

SURELY_SECONDS = 1.0
"""A question to all others that takes longer may have missed an answer."""


@dataclass(frozen=True)
class Round:
    """A round that a process has committed and written to its log."""

    commit: Commit
    process: Process
    worker: int


@dataclass
class Knowledge:
    """Watches what the workers of a run believe.

    Args:
        network: of the run.
        storage: of the run.
    """

    network: Network
    storage: Storage
    _rounds: list[Round] = field(default_factory=list)
    _met: dict[Process, dict[int, Process]] = field(default_factory=dict)
    """The processes with which each one was in a group, by worker."""

    def watch(self, worker: int, process: Process, attempt: int, loop: OuterLoop) -> None:
        """Watches a process of a worker in an attempt at the run."""
        membership, world = loop.membership, process.world
        transport, progress = membership.transport, membership.progress
        assert isinstance(transport, PeerTransport)
        written = set[str]()
        met = self._met.setdefault(process, {})
        opens = transport.open
        takes_over = membership.take_over

        def record(step: int, fragment: int, members: Collection[int]) -> None:
            name = transport.committed
            if name is None or name in written:
                raise Violation(f"worker {worker} logs the round after step {step} before it is committed")
            written.add(name)
            commit = Commit(attempt, step, fragment, frozenset(members))
            self._rounds.append(Round(commit, process, worker))  # from here on it may answer that it has committed it
            progress.record(step, fragment, members)

        def passed(step: int, fragment: int) -> bool:
            def passes(commit: Commit) -> bool:
                return commit.step > step or (commit.step, commit.fragment) == (step, fragment)

            began, shown = world.now, list(self._shown(process, attempt))
            result = progress.committed_without_me(step, fragment)
            if result and not any(passes(one.commit) for one in self._rounds if one.commit.attempt == attempt):
                raise Violation(f"worker {worker} believes that it was left behind at step {step}, and it was not")
            missed = [one.worker for one in self._still(shown, process, began) if passes(one.commit)]
            if missed and not result:
                raise Violation(f"worker {worker} does not see that worker {missed[0]} has gone on without it")
            return result

        def reached() -> int:
            began, shown = world.now, list(self._shown(process, attempt))
            result = progress.last_committed_step()
            steps = [one.commit.step for one in self._rounds if one.commit.attempt == attempt]
            if result > max([0, self.storage.newest() or 0, *steps]):
                raise Violation(f"worker {worker} believes that the run has come to step {result}, and it has not")
            for one in self._still(shown, process, began):
                if one.commit.step > result:
                    raise Violation(f"worker {worker} does not see that worker {one.worker} has come further")
            return result

        def opened(step: int) -> PeerRound:
            this_round = opens(step)
            if this_round.failure is None:
                servers = [self.network.servers.get(address) for address in transport.peers]
                of_members = zip(transport.group.workers, servers, strict=True)
                met.update({other: server[0] for other, server in of_members if server is not None})
            return this_round

        def take_over(catch_up: CatchUp) -> bool:
            taken = takes_over(catch_up)
            if taken and not membership.stops and membership.commit_hash != catch_up.committed.commit_hash:
                raise Violation(f"worker {worker} has taken over a state that is not the one after the round")
            return taken

        membership.progress = replace(progress, record=record, committed_without_me=passed, last_committed_step=reached)
        transport.open = opened  # type: ignore[method-assign]
        membership.take_over = take_over  # type: ignore[method-assign]

    def _shown(self, process: Process, attempt: int) -> Iterator[tuple[Round, bool]]:
        """Yields the rounds of an attempt that a process can learn of now, and whether it has to ask for them. Of each
        log only the newest step counts."""
        world, machine, met = process.world, process.machine, self._met[process]
        until, lag = self.storage.lags.get(machine, (0.0, 0.0))
        latest = world.now - (lag if world.now < until else 0.0)
        for one in self._rounds:
            if one.commit.attempt != attempt or one.process is process:
                continue
            log = [entry for time, entry in self.storage.logs.get(one.worker, ()) if time <= latest]
            commits = [entry for entry in log if isinstance(entry, Commit) and entry.attempt == attempt]
            if commits and one.commit.step == commits[-1].step and one.commit in commits:
                yield one, False
            elif met.get(one.worker) is one.process and self._hears(process, one.process):
                yield one, True

    def _still(self, shown: list[tuple[Round, bool]], process: Process, began: float) -> Iterator[Round]:
        """Yields the rounds of which a process must have learned, after it has looked since some time."""
        quick = process.world.now - began < SURELY_SECONDS
        for one, asked in shown:
            if not asked or (quick and self._hears(process, one.process)):
                yield one

    def _hears(self, process: Process, other: Process) -> bool:
        """Whether nothing hinders one process from hearing another one's answers."""
        network, here, there = self.network, process.machine, other.machine
        silent = network.silent(here, there) or network.silent(there, here)
        return other.alive and not other.paused and not silent and not network.mishaps.get(here)
