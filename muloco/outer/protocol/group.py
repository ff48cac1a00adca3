"""The group of workers with which this one takes part in rounds, chosen anew from the members of each quorum."""

import logging
from collections.abc import Collection, Sequence

from muloco.outer.protocol.admission import Admission, admit
from muloco.outer.protocol.authentication import Key
from muloco.outer.protocol.header import PROTOCOL
from muloco.outer.protocol.reachability import Reachability
from muloco.outer.protocol.wire import Quorum, Rendezvous

logger = logging.getLogger(__name__)


class Group:
    """The group of one worker. Members of a quorum that do not hold the key of the run are left out, and so are those
    that stay out of the rounds. A worker that stays out forms a group of its own.

    Args:
        key: of the run.
        reachability: state of this worker's connections to the others.
        seconds: the longest wait for each member's next entry in the store of a quorum.
    """

    def __init__(self, key: Key, reachability: Reachability, seconds: float):
        self._key = key
        self._reachability = reachability
        self._seconds = seconds
        self.place = 0
        """Rank of this worker among the members."""
        self.size = 0
        """Number of members."""
        self.workers: Sequence[int] = ()
        """Numbers that the members claim, by rank; those of all members of the quorum before it is joined."""
        self.quorums = 0
        """Number of quorums so far."""
        self.admission: Admission
        """The result of the admission in the last quorum."""
        self.strangers: Sequence[str] = ()
        """Names, as messages show them, of the members of the quorum that do not hold the secret or use another version
        of the protocol."""
        self.quorum: Sequence[int] = ()
        """Numbers that the members of the last quorum claim, by rank in the quorum."""
        self.missed: Collection[int] = ()
        """Workers that were silent in the last quorum."""
        self._silent: Collection[int] = ()
        """Workers of the last quorum that did not connect with the others."""

    def stays_out(self, quorum: Quorum) -> bool:
        """Whether this worker is connected with nobody. To be called first for each new quorum."""
        self.place, self.size = quorum.rank, len(quorum.workers)
        self.quorum = self.workers = quorum.workers
        self.quorums += 1
        return self._reachability.settle_alone(quorum.workers, host=quorum.host)

    def join(self, quorum: Quorum, store: Rendezvous) -> tuple[str, list[int]]:
        """Returns a name for the group, and the ranks of its members in the quorum, this worker included.

        Raises:
            TransportError: see `admit`. RuntimeError: the store does not answer.
        """
        workers, reachability = quorum.workers, self._reachability
        self.admission = admission = admit(
            store,
            self._key,
            quorum.rank,
            len(workers),
            self._seconds,
            remark=reachability.remark(),
            doubtful=[m for m, worker in enumerate(workers) if worker in self._silent and m != quorum.rank],
        )
        out = reachability.settle({workers[member]: remark for member, remark in admission.remarks.items()})
        self.missed = [workers[member] for member in admission.silent]
        self._silent = {*self.missed, *out}
        self._report(admission)
        if reachability.reason_to_stay_out() is not None:
            members, name = [quorum.rank], f"{admission.name}-{quorum.rank}"
        else:
            members, name = [m for m in admission.admitted if workers[m] not in out], admission.name
        self.place, self.size = members.index(quorum.rank), len(members)
        self.workers = [workers[member] for member in members]
        return name, members

    def call(self, rank: int) -> str:
        """Returns the name of a member for messages, such as `worker 1`, by the number that it claims."""
        return f"worker {self.workers[rank]}"

    def _report(self, admission: Admission) -> None:
        """Notes the strangers of the quorum, and logs who is left out."""
        versions = {m: f" (version {version} of the protocol)" for m, version in admission.versions.items()}
        self.strangers = tuple(self.call(stranger) + versions.get(stranger, "") for stranger in admission.strangers)
        kinds = dict.fromkeys(admission.strangers, "does not have the secret of this run (MULOCO_SECRET)")
        for other, version in admission.versions.items():
            kinds[other] = f"uses version {version} of the protocol, and this worker version {PROTOCOL}"
        kinds |= dict.fromkeys(admission.silent, "did not answer in time")
        for other, kind in kinds.items():
            logger.warning("%s %s; the others go on without it", self.call(other), kind)
