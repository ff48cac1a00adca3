"""Workers as threads of one process: a group of one for K = 1, and groups of many for tests and studies."""

import threading

import torch

from muloco.outer.transport import TransportError


class InProcessGroup:
    """K workers of this process; `transport(rank)` gives each thread its own end.

    Args:
        size: number of workers, K >= 1.
        timeout_seconds: how long a worker waits for the others at each exchange.
    """

    def __init__(self, size: int, *, timeout_seconds: float = 60.0):
        if size < 1:
            raise ValueError(f"a group needs at least one worker; got {size}")
        self.size = size
        self._timeout = timeout_seconds
        self._barrier = threading.Barrier(size)
        self._slots: list[torch.Tensor | None] = [None] * size

    def transport(self, rank: int) -> "InProcessTransport":
        return InProcessTransport(self, rank)

    def abort(self) -> None:
        """Ends every wait in the group with a TransportError, now and later: a worker has failed."""
        self._barrier.abort()

    def exchange(self, rank: int, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every worker's tensor, as copies, in rank order."""
        self._slots[rank] = tensor
        self._meet()
        gathered = [slot.clone() for slot in self._slots if slot is not None]
        self._meet()
        return gathered

    def _meet(self) -> None:
        try:
            self._barrier.wait(self._timeout)
        except threading.BrokenBarrierError:
            raise TransportError("a worker of this process did not come to the exchange") from None


class InProcessTransport:
    """One worker's end of an `InProcessGroup`."""

    device = torch.device("cpu")

    def __init__(self, group: InProcessGroup, rank: int):
        self._group = group
        self._rank = rank

    def open(self, step: int) -> "InProcessRound":
        return InProcessRound(self._group, self._rank)

    def close(self) -> None:
        pass


class InProcessRound:
    """See `muloco.outer.transport.Round`."""

    def __init__(self, group: InProcessGroup, rank: int):
        self._group = group
        self.rank = rank
        self.size = group.size
        self.bytes_sent = 0

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.bytes_sent += (self.size - 1) * tensor.nbytes
        return self._group.exchange(self.rank, tensor)

    def all_to_all(self, tensor: torch.Tensor) -> torch.Tensor:
        self.bytes_sent += (self.size - 1) * tensor[0].nbytes
        return torch.stack([sent[self.rank] for sent in self._group.exchange(self.rank, tensor)])

    def commit(self, ok: bool) -> bool:
        return all(vote.item() for vote in self.all_gather(torch.tensor(ok)))
