"""The connections of one rank of a worker, as the protocol uses them. Workers have no other way to each other.

`muloco.outer.wire.torchft` implements them for processes. A wire may lose, delay, repeat and damage what is sent, and
strangers may send, too: the protocol recognizes this by tags. It relies on nothing but what the docstrings below say.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from muloco.outer.protocol.group import Group


@dataclass(frozen=True, kw_only=True)
class Quorum:
    """The workers that a lighthouse has brought together."""

    rank: int
    """Rank of this worker among them; all members are given the same order."""
    workers: Sequence[int]
    """The worker number of each member, by rank, as the member itself claims."""
    host: str
    """Name or address of the machine with the store in which the members find each other."""


CUT_OFF = "this worker was cut off"
"""Message of a `ConnectionError` after `Wire.abort`."""


class Rendezvous(Protocol):
    """The store in which the members of a quorum find each other. Any process can read and write it."""

    def set(self, key: str, value: str) -> None:
        """Writes an entry for all members.

        Raises:
            RuntimeError: the store does not answer.
        """
        ...

    def collect(self, keys: Sequence[str], seconds: float) -> list[bytes]:
        """Returns these entries; empty bytes for those that are not there within so many seconds.

        Raises:
            RuntimeError: the store does not answer.
        """
        ...


class Wire(Protocol):
    """One rank's connections to the same rank of other workers, to the lighthouse, and to the other ranks of its
    worker. One round runs at a time; requests are served and asked at any time."""

    device: torch.device
    """The device from whose memory bytes are sent."""

    @property
    def connected(self) -> bool:
        """Whether the connections of the last group have been made, and not been aborted here since."""
        ...

    def meet(self, group: "Group") -> str | None:
        """Waits until all ranks of this worker ask, and for a quorum of workers that do. All members of a quorum get
        the same one, with a number. The number changes if the members do, or if one of them has reported a failure to
        `finish`. If it is another one than the last time, the connections are made anew: if not `group.stays_out`,
        `group.join` returns a name and members; those that have computed the same name are connected. Otherwise the
        group is not asked, and the connections stay as they are, failed ones too.

        Returns:
            None, or why the members could not be connected. Another member may not have noticed a failure.

        Raises:
            RuntimeError, TimeoutError: there is no quorum in time.
        """
        ...

    def swap(
        self, received: torch.Tensor, sizes: list[int], sent: list[torch.Tensor], meanwhile: Callable[[], None]
    ) -> None:
        """Sends `sent[r]` to member r, and fills `received` with the bytes from all members, `sizes[r]` from member r
        in rank order. Calls `meanwhile` once they are on the way. Returns when all bytes from others have arrived; its
        own may still be on the way. All members swap in the same order, and know each other's sizes.

        Args:
            received: uint8 vector on `device`.
            sizes: bytes from each member; 0 from this one.
            sent: uint8 vectors on `device`, not changed before the next swap; empty for this member.

        Raises:
            ConnectionError: a member is gone or too slow, or this worker was cut off. What `received` holds is
                arbitrary then, and no later swap of these connections succeeds.
        """
        ...

    def finish(self, failure: str | None) -> str | None:
        """Ends a round, once for each `meet`. All ranks of this worker end it together.

        Args:
            failure: why this rank needs new connections for the next round; None: it does not.

        Returns:
            None, or why the connections of a rank of this worker have not held. All its ranks learn of it, and other
            workers may not. New connections are made for the next round.

        Raises:
            RuntimeError, TimeoutError: a rank of this worker does not answer.
        """
        ...

    def abort(self) -> None:
        """Breaks the connections to the members of the group. Members that wait for this one fail at once, or after
        the timeout. May be called at any time."""
        ...

    def forget_rendezvous(self) -> None:
        """Deletes what the members of this group have written into the store of the quorum. A restarted lighthouse
        counts quorums from 1 again, and the members of the next quorum of this number must not find it.

        Members of the quorum that are not in this group may still be reading what all of them have written. If there
        are any, that stays; a later quorum that finds it fails once and gets another number. If the store does not
        answer, its worker is gone, and so is what it held."""
        ...

    def serve(self, answer: Callable[[str], bytes | None]) -> str:
        """Begins to answer the requests of holders of the key of the run (`muloco.outer.protocol.requests`).

        Args:
            answer: returns the answer to the request for a path, or None if there is none. It may be called for
                several requests at once, and may wait.

        Returns:
            the address `host:port` for `request`.
        """
        ...

    def request(self, address: str, path: str, seconds: float) -> bytes | None:
        """Sends a request to another worker and returns its whole answer; None: it has none for this path. A request
        may arrive, and be acted on, even if its answer is lost.

        Args:
            address: the result of `serve` there.
            path: such as `/round/NAME`.
            seconds: longest silence, of at least the connection and the beginning of the answer.

        Raises:
            OSError: there is no answer, it is incomplete, or it was not made for this request by a holder of the key.
        """
        ...

    def reaches(self, address: str) -> bool:
        """Whether the machine at an address `host:port` answers at all, within some seconds. It also does so if the
        worker there is gone."""
        ...

    def of_ranks(self, numbers: Sequence[int]) -> list[list[int]]:
        """Returns the numbers that each rank of this worker has given, by rank. All ranks give equally many, and wait
        for each other.

        Raises:
            RuntimeError: a rank is gone.
        """
        ...

    def close(self) -> None:
        """Leaves the lighthouse, and closes everything."""
        ...
