"""What a worker tells others outside the rounds: the outcome of a round, its state after it, and parts of shared work.

A worker that loses contact in a vote cannot know whether the others have received all votes, so it asks them. A worker
that was away takes over the state of one that was not.
"""

from collections import OrderedDict
from collections.abc import Callable

from muloco.outer.protocol.clock import Clock
from muloco.outer.protocol.transport import KEPT_PARTS

VOTING, IN_DOUBT, COMMITTED, FAILED = "voting", "in doubt", "committed", "failed"
OUTCOMES = (VOTING, IN_DOUBT, COMMITTED, FAILED)
KEPT = 64
"""Rounds that are remembered: this many in which this rank took part, and this many that others have asked about."""
HELD_SECONDS = 1.0
"""Seconds for which a request for a part that has not been published yet is held."""
AGAIN_SECONDS = 0.1
"""Pause before a peer that has nothing yet is asked again."""

Get = Callable[[str, str, float], bytes | None]
"""See `muloco.outer.protocol.wire.Wire.request`."""


class Answers:
    """The answers of this rank to the same rank of other workers.

    `/round/NAME` -> voting, in doubt (it has voted, lost contact and asks the others), committed or failed. The worker
    that asks may give the round up if nobody has committed it; therefore a round on which this rank has not voted yet
    counts as failed from then on. `/state/NAME` -> the state offered after that round, or None if there is none (yet).
    `/part/NAME` -> the part published under that name, or None. `/QUESTION/NAME` -> the result of
    `questions[QUESTION](NAME)`.

    Args:
        clock: of this rank.
    """

    def __init__(self, clock: Clock):
        self._rounds: OrderedDict[str, str] = OrderedDict()
        self._given_up: OrderedDict[str, str] = OrderedDict()
        self._offer: tuple[str, bytes] = ("", b"")
        self._parts: OrderedDict[str, bytes] = OrderedDict()
        self._changed = clock.condition()
        self.questions: dict[str, Callable[[str], bytes | None]] = {
            "round": self._round,
            "state": self._state,
            "part": self._part,
        }
        """Functions that answer requests, by kind. Each gets the name at the end of the path."""

    def answer(self, path: str) -> bytes | None:
        """Returns the answer to a request for a path; None: there is none."""
        kind, _, name = path.removeprefix("/").partition("/")
        return self.questions[kind](name) if kind in self.questions and name else None

    def begin_vote(self, name: str) -> bool:
        """From now on the answer is that this rank votes. Returns False if it may not vote any more, as a peer has
        already asked."""
        with self._changed:
            if name in self._rounds or name in self._given_up:
                return False
            _remember(self._rounds, name, VOTING)
            return True

    def say(self, name: str, outcome: str) -> None:
        """Sets the answer about a round."""
        with self._changed:
            _remember(self._rounds, name, outcome)

    def offer(self, name: str, state: bytes) -> None:
        """Keeps this state, and no earlier one, for workers that missed something in a round."""
        with self._changed:
            self._offer = (name, state)

    def publish(self, name: str, part: bytes) -> None:
        """Offers a part to other workers until `KEPT_PARTS` newer ones have been published."""
        with self._changed:
            self._parts[name] = part
            while len(self._parts) > KEPT_PARTS:
                self._parts.popitem(last=False)
            self._changed.notify_all()

    def _round(self, name: str) -> bytes:
        with self._changed:
            if name not in self._rounds:
                _remember(self._given_up, name, FAILED)
            return self._rounds.get(name, FAILED).encode()

    def _state(self, name: str) -> bytes | None:
        with self._changed:
            return self._offer[1] if self._offer[0] == name else None

    def _part(self, name: str) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: name in self._parts, HELD_SECONDS)
            return self._parts.get(name)


def _remember(rounds: OrderedDict[str, str], name: str, outcome: str) -> None:
    rounds[name] = outcome
    while len(rounds) > KEPT:
        rounds.popitem(last=False)


def ask(get: Get, address: str, name: str, *, seconds: float) -> str | None:
    """Asks the peer `host:port` for the outcome of a round; None: it does not answer."""
    try:
        answer = get(address, f"/round/{name}", seconds) or b""
    except OSError:
        return None
    return next((outcome for outcome in OUTCOMES if outcome.encode() == answer), None)


def fetch(get: Get, clock: Clock, address: str, path: str, *, patience: float, seconds: float) -> bytes:
    """Returns the answer of a peer. Repeats the request while the peer has nothing yet.

    Args:
        get: sends a request.
        clock: of this rank.
        address: `host:port` of the peer.
        path: `/state/NAME` or `/part/NAME`.
        patience: seconds that the peer may take until it has something.
        seconds: longest silence of the peer.

    Raises:
        OSError: the peer is gone or silent, has nothing, or its answer was not made by a holder of the key.
    """
    deadline = clock.now() + patience
    while True:
        answer = get(address, path, seconds)
        if answer is not None:
            return answer
        if clock.now() > deadline:
            raise FileNotFoundError(f"the worker at {address} has nothing at {path}")
        clock.sleep(AGAIN_SECONDS)
