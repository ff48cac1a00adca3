"""Where a worker is, as it tells others that miss it, and whether a sync waits for those that it misses.

The lighthouse may bring only some workers together though all are alive: a restarted one knows nobody yet, and one that
gets no heartbeats of a worker takes it for dead. If the workers that meet went on at once, the others would lose their
windows; and if two groups met at the same time, the run would have two histories. Therefore the members of a round ask
those that hold the state of the last one and are not here.

Two groups that ask at the same time cannot both miss each other's round: each of them says that it decides one before
it asks. The weaker group gives its round up, and the stronger one waits until it has.
"""

import logging
import re
from collections.abc import Collection

from muloco.outer.protocol.transport import Round, Transport

logger = logging.getLogger(__name__)

QUESTION = "whereabouts"
TRAINING, MEETING, DECIDING, AWAY = "training", "meeting", "deciding", "away"
"""Answers of a worker to others: it takes inner steps with the state of the run; it asks the lighthouse for the others;
it is in a round, which it may commit (`deciding SIZE LOWEST`, the number of members and the lowest worker number); or
nobody needs to wait for it, since it has no state of the run, stays out of the rounds, or has finished."""
ASK_SECONDS = 5.0
"""Seconds within which a worker that can be reached answers."""
MEETING_SECONDS = 10.0
"""Seconds within which workers meet at a lighthouse that is there. After a meeting that took longer, the others have
time to come anew: the lighthouse may have been away for them, too."""
COMING_SECONDS = 2 * MEETING_SECONDS
"""Seconds for which a sync waits for a worker that asks the lighthouse, too. A worker that does not come meanwhile may
be unable to reach it."""
AGAIN_SECONDS = 0.1
"""Pause before a weaker group is asked again whether it has given its round up."""


class Whereabouts:
    """The answers that one rank of a worker gives to the same rank of others, and the same question to them.

    Args:
        transport: answers others, and asks them.
    """

    def __init__(self, transport: Transport):
        self.now = AWAY
        self._transport = transport
        transport.answer(QUESTION, lambda: self.now.encode())

    def of_others(self, workers: Collection[int] | None = None) -> dict[int, str]:
        """Returns what these workers say, or all that this one has met: those that answer in time, by worker."""
        answers = self._transport.inquire(QUESTION, ASK_SECONDS, workers)
        return {worker: said.decode(errors="replace") for worker, said in answers.items()}

    def others_hold_a_state(self) -> bool:
        """Whether a worker that this one has met is alive and holds the state of the run."""
        return any(said != AWAY for said in self.of_others().values())

    def search(self, holders: Collection[int], *, straggler_seconds: float) -> "Search":
        """Begins a sync, which needs the other workers."""
        self.now = MEETING
        return Search(self, self._transport, holders, straggler_seconds)


class Search:
    """The search of one sync for the workers that are missing in its rounds.

    Args:
        whereabouts: of this worker.
        transport: over which the rounds are opened.
        holders: workers that hold the state of the last round.
        straggler_seconds: for how long the sync waits for a worker that takes inner steps, from now on.
    """

    def __init__(
        self, whereabouts: Whereabouts, transport: Transport, holders: Collection[int], straggler_seconds: float
    ):
        self._whereabouts, self._transport, self._holders = whereabouts, transport, holders
        self._until = transport.clock.now() + straggler_seconds
        self._coming: dict[int, float] = {}
        """Time since which each worker has said that it asks the lighthouse."""
        self._over = transport.clock.now()
        """When the last round was over."""
        self._told: list[int] = []

    def waits(self, this_round: Round) -> bool:
        """Whether a round that has just been opened must not be committed, because a worker that is missing in it is
        alive and may come, or is about to commit another round."""
        if self._transport.clock.now() > self._over + MEETING_SECONDS:
            self._coming.clear()
        members = this_round.workers
        if not members:
            return False
        self._whereabouts.now = _deciding(members)
        missing = [worker for worker in self._holders if worker not in members]
        if not missing:
            return False
        said = self._settled(missing, members)
        awaited = sorted(worker for worker in said if self._is_worth_waiting(worker, said[worker]))
        if awaited and awaited != self._told:
            names = ", ".join(f"worker {worker} ({said[worker].partition(' ')[0]})" for worker in awaited)
            logger.warning("this sync waits for workers that are alive and not here: %s", names)
        self._told = awaited
        return bool(awaited)

    def failed(self, *, stays_out: bool) -> None:
        """The round is over, and not committed.

        Args:
            stays_out: whether this worker stays out of the rounds.
        """
        self._whereabouts.now = AWAY if stays_out else MEETING
        self._over = self._transport.clock.now()

    def _settled(self, missing: Collection[int], members: Collection[int]) -> dict[int, str]:
        """Returns what the missing workers say, once those in weaker groups have given their rounds up."""
        clock = self._transport.clock
        deadline = clock.now() + ASK_SECONDS
        while True:
            said = self._whereabouts.of_others(missing)
            rounds = [strength for text in said.values() if (strength := _strength(text)) is not None]
            weaker = all(strength < (len(members), -min(members)) for strength in rounds)
            if not rounds or not weaker or clock.now() > deadline:
                return said
            clock.sleep(AGAIN_SECONDS)

    def _is_worth_waiting(self, worker: int, said: str) -> bool:
        now = self._transport.clock.now()
        if said != MEETING:
            self._coming.pop(worker, None)
        if said == TRAINING:
            return now < self._until
        if said == MEETING:
            return now < self._coming.setdefault(worker, now) + COMING_SECONDS
        return _strength(said) is not None


def _deciding(members: Collection[int]) -> str:
    return f"{DECIDING} {len(members)} {min(members)}"


def _strength(said: str) -> tuple[int, int] | None:
    """Returns the strength of the group of a worker that decides a round, or None if it decides none: larger groups are
    stronger, and of equally large ones the one with the lowest worker number."""
    match = re.fullmatch(rf"{DECIDING} (\d{{1,9}}) (\d{{1,9}})", said, re.ASCII)
    return (int(match[1]), -int(match[2])) if match else None
