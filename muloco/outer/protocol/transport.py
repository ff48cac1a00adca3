"""The interface of every transport, which carries rounds between workers.

A transport opens one round a sync. The round knows who takes part, in which order, and moves bytes between them; it
ends with `vote`, in which all members come to the same answer.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import torch

from muloco.outer.protocol.clock import Clock

KEPT_PARTS = 2
"""Number of the newest parts of a worker that others can collect. A worker that has collected a part from all others
may publish its next part before they have collected this one."""


class TransportError(RuntimeError):
    """A peer is gone or took longer than the timeouts allow; or a round could not be opened at all."""


class Unverified(TransportError):
    """Messages of some members of a round do not carry a valid tag, or arrived damaged.

    Args:
        reason: a message that names these members.
        ranks: their ranks in the round.
    """

    def __init__(self, reason: str, ranks: Sequence[int]):
        super().__init__(reason)
        self.ranks = tuple(ranks)


class Round(Protocol):
    """One exchange between the workers that take part in it."""

    rank: int
    """Place of this worker among the members, from 0; the same order on every member."""
    size: int
    """Number of members."""
    workers: Sequence[int]
    """Worker numbers that the members claim, by rank; empty if they could not be connected."""
    device: torch.device
    """The device of the parameters, which makes and reads payloads."""
    wire: torch.device
    """The device from which bytes are sent. If it is not `device`, payloads are copied through page-locked memory."""
    bytes_sent: int
    """Bytes that this rank has sent to other workers so far in this round."""
    exchanges: int
    """Exchanges of this round so far."""
    strangers: Sequence[str]
    """Names, as messages show them, of processes at the lighthouse without the secret or with another version of the
    protocol; they are not members."""

    @property
    def name(self) -> str:
        """Name of the round, equal on all members."""
        ...

    def exchange(self, outgoing: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        """Sends `outgoing[r]` to member r and returns what came from each, in rank order, once it is there.

        Args:
            outgoing: one uint8 vector for each member, of any length, all on `device` or all on `wire`; the result is
                on the same device. Member r may read `outgoing[r]` until it begins the next exchange or its vote, so
                the vector must not be changed until this member's next exchange or vote returns.
            sizes: bytes that come from each member; all members know each other's sizes beforehand.

        Raises:
            TransportError: a member is gone or too slow. The round can only be voted down then.
        """
        ...

    def tag(self, rank: int, number: int, data: bytes) -> bytes:
        """Returns the tag that member `rank` adds to a message. All tags have the same length, which is 0 if messages
        can be neither forged nor damaged.

        Args:
            rank: the member that sends the message.
            number: the number of exchanges in the round before this message.
            data: the message.
        """
        ...

    def call(self, rank: int) -> str:
        """Returns the name of member `rank` for messages, such as `worker 1`."""
        ...

    def vote(self, ok: bool) -> bool:
        """Ends the round. Returns True, alike on every surviving member, if all members said `ok` and everything that
        they sent in the round has arrived unchanged.

        A member that says no does not wait for the others, and members that wait for it in `exchange` are told.
        """
        ...


class Transport(Protocol):
    """Opens rounds between workers."""

    clock: Clock
    """The clock of this worker."""
    device: torch.device
    """The device of the parameters, which makes and reads payloads."""
    concurrent: bool
    """Whether rounds can run in a thread of their own, in parallel with the inner steps."""

    def open(self, step: int) -> Round:
        """Meets the other workers at the sync after inner step `step`; waits for those that are alive.

        Raises:
            TransportError: too few came within the timeout.
        """
        ...

    def offer(self, name: str, state: bytes) -> None:
        """Keeps this rank's state for members of a round that are behind, until it offers another one."""
        ...

    def fetch(self, name: str, rank: int) -> bytes:
        """The state that member `rank` offers (or will offer) after a round, for the same rank of this worker.

        Raises:
            TransportError: it is gone, or offers nothing within the timeout.
        """
        ...

    def publish(self, name: str, part: bytes) -> None:
        """Offers this rank's part of shared work to the same rank of other workers. The newest `KEPT_PARTS` are
        kept."""
        ...

    def collect(self, name: str, workers: Collection[int], patience: float) -> dict[int, bytes]:
        """Returns the parts that these workers have published under a name, by worker. Waits at most `patience` seconds
        for all of them together, and leaves out workers that are gone or late. Unlike in a round, different workers may
        get different answers."""
        ...

    def answer(self, question: str, answer: Callable[[], bytes]) -> None:
        """Registers a function whose result other workers get when they ask this question. It is called beside
        the inner steps."""
        ...

    def inquire(self, question: str, seconds: float, workers: Collection[int] | None = None) -> dict[int, bytes]:
        """Asks the same rank of these workers, or of all, as far as this one has met them, and returns the answers that
        arrive within so many seconds in total, by worker."""
        ...

    def any_rank(self, value: bool) -> bool:
        """Whether it holds on one of the ranks of this worker, all of which ask."""
        ...

    def cut(self) -> None:
        """Breaks the connections of an open round, as a fault of the network would."""
        ...

    def close(self) -> None:
        """Leaves the group of workers."""
        ...
