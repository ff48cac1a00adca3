"""What carries a round between workers: the interface of every transport.

A transport opens one round a sync. The round knows who takes part, in which order, and moves tensors between them; it
ends with `commit`, in which every member learns whether all of them are content.
"""

from typing import Protocol

import torch


class TransportError(RuntimeError):
    """A round could not be opened or finished: a peer is gone, or took longer than the timeouts allow."""


class Round(Protocol):
    """One exchange between the workers that take part in it."""

    rank: int
    """Place of this worker among the members, from 0; the same order on every member."""
    size: int
    """Number of members."""
    bytes_sent: int
    """Bytes that this worker has sent to others so far in this round."""

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every member's `tensor` (same shape and dtype everywhere), in rank order."""
        ...

    def all_to_all(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` [size, n]: row r goes to member r. Returns [size, n]: row r came from member r."""
        ...

    def commit(self, ok: bool) -> bool:
        """Ends the round. True where every member said `ok`; all members get the same answer.

        Raises:
            TransportError: the answer could not be learnt.
        """
        ...


class Transport(Protocol):
    """Opens rounds between workers."""

    device: torch.device
    """Where the tensors that it moves must live."""

    def open(self, step: int) -> Round:
        """Meets the other workers at the sync after inner step `step`; waits for them.

        Raises:
            TransportError: they did not come within the timeout.
        """
        ...

    def close(self) -> None:
        """Leaves the group of workers."""
        ...
