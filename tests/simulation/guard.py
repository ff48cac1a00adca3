"""What must hold when strangers and forgers are about: of groups, of what is forged, and of who is refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muloco.outer.protocol.answers import COMMITTED, IN_DOUBT
from muloco.outer.protocol.authentication import TAG_BYTES
from muloco.outer.protocol.peer_transport import PeerTransport
from tests.simulation.invariants import Ledger
from tests.simulation.lighthouse import Met
from tests.simulation.strangers import LEFT_OUT
from tests.simulation.world import Process, Violation


@dataclass
class Guard:
    """Guards the workers of a run.

    Args:
        ledger: of the run.
        strangers: the kind of each stranger, by machine.
    """

    ledger: Ledger
    strangers: Mapping[str, str]
    _groups: dict[str, Met] = field(default_factory=dict)
    """The quorum of each group, by the name of the group."""
    _machines: dict[Process, list[str]] = field(default_factory=dict)
    """The machines of the group of each process."""
    _forgotten: set[str] = field(default_factory=set)
    """The groups of which a member has deleted the entries."""

    def all_of(self, worker: int, process: Process, transport: PeerTransport) -> None:
        """Guards a process of a worker."""
        self._admission(worker, process, transport)
        self._forgeries(worker, transport)
        self._company(worker, process, transport)

    def _admission(self, worker: int, process: Process, transport: PeerTransport) -> None:
        """Every quorum has groups of its own, whose members hold the secret, use one version of the protocol and have
        read the same entries; one member of a group deletes its entries."""
        group, wire = transport.group, transport.wire
        join, forget = group.join, wire.forget_rendezvous

        def joins(quorum: Any, store: Any) -> tuple[str, list[int]]:
            name, members = join(quorum, store)
            met, admission = wire.met, group.admission  # type: ignore[attr-defined]
            if self._groups.setdefault(admission.name, met) is not met:
                raise Violation(f"worker {worker} takes part in a group with the name of that of another quorum")
            machines = [member.store.partition(":")[0] for member in sorted(met.members, key=lambda m: m.replica)]
            for member in admission.admitted:
                kind = self.strangers.get(machines[member], "")
                if kind in LEFT_OUT:
                    raise Violation(f"worker {worker} admits a stranger ({kind})")
                own, theirs = store.read[f"proof/{quorum.rank}"], store.read[f"proof/{member}"]
                if _seen(own) != _seen(theirs):
                    raise Violation(f"worker {worker} admits a member that has met others than it has")
            self._machines[process] = [machines[member] for member in members]
            return name, members

        def forgets() -> None:
            if group.admission.name in self._forgotten:
                raise Violation(f"worker {worker} is the second one to delete the entries of its group")
            self._forgotten.add(group.admission.name)
            forget()

        group.join = joins  # type: ignore[method-assign]
        wire.forget_rendezvous = forgets  # type: ignore[method-assign]

    def _forgeries(self, worker: int, transport: PeerTransport) -> None:
        """Nobody votes for a round in which it has received forged bytes, or counts a forged vote."""
        answers, wire = transport.answers, transport.wire
        opens, begin_vote, say = transport.open, answers.begin_vote, answers.say
        opened = voted = 0
        doubtful = ""

        def open_round(step: int) -> Any:
            nonlocal opened
            opened = wire.forged  # type: ignore[attr-defined]
            return opens(step)

        def votes(name: str) -> bool:
            nonlocal voted
            voted = wire.forged  # type: ignore[attr-defined]
            may = begin_vote(name)
            if may and voted > opened:
                raise Violation(f"worker {worker} votes for a round in which it has received forged bytes")
            return may

        def says(name: str, outcome: str) -> None:
            nonlocal doubtful
            doubtful = name if outcome == IN_DOUBT else doubtful
            if outcome == COMMITTED and name != doubtful and wire.forged > voted:  # type: ignore[attr-defined]
                raise Violation(f"worker {worker} counts a forged vote")
            say(name, outcome)

        transport.open, answers.begin_vote, answers.say = open_round, votes, says  # type: ignore[method-assign]

    def _company(self, worker: int, process: Process, transport: PeerTransport) -> None:
        """Nobody commits a round with a stranger."""
        say: Callable[[str, str], None] = transport.answers.say

        def says(name: str, outcome: str) -> None:
            strange = [m for m in self._machines.get(process, ()) if m in self.strangers]
            if outcome == COMMITTED and strange:
                raise Violation(f"worker {worker} commits a round with a stranger ({self.strangers[strange[0]]})")
            say(name, outcome)

        transport.answers.say = says  # type: ignore[method-assign]

    def refused(self, worker: int, process: Process, others: Mapping[str, Process]) -> str:
        """Returns why a worker may end because it does not belong to the run: `double` if it has met another process of
        itself, `newcomer` if it has been in no round and has met none that has.

        Args:
            worker: its number.
            process: that ends.
            others: the living processes of all workers, by machine.
        """
        view, machines = self.ledger.view_of(process), self._machines.get(process, [])
        met = [self.ledger.view_of(other) for machine, other in others.items() if machine in machines]
        for other in met:
            double = other is not None and other is not view and other.worker == worker
            if double and view is not None and view.node.rounds > other.node.rounds:
                raise Violation(f"worker {worker} is refused though it has come further than its double")
        if {f"m{worker}", f"d{worker}"} <= set(machines):
            return "double"
        if view is not None and view.node.depth > 0:
            raise Violation(f"worker {worker} is refused though it has been in the rounds of the run")
        if any(other is not None and other is not view and other.node.depth > 0 for other in met):
            raise Violation(f"worker {worker} is refused by the others of its run")
        if not self.strangers:
            raise Violation(f"worker {worker} is refused, but no stranger is there")
        return "newcomer"


def _seen(proof: bytes) -> bytes:
    """Returns the part of a proof that says what its author has read."""
    return proof.partition(b" ")[2][: 2 * TAG_BYTES]
