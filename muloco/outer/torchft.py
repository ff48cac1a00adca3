"""Workers as processes: torchft's manager says who takes part, its process group carries the tensors.

torchft decides membership alone. Its `should_commit` is a barrier of the ranks of one worker, not a vote between
workers, so the vote is our own exchange; and its DiLoCo is not used (`tests/outer` hold it against ours).
"""

import socket
from datetime import timedelta

import torch
from torch.distributed.distributed_c10d import AllgatherOptions, AllToAllOptions
from torchft.checkpointing import CheckpointTransport
from torchft.manager import Manager
from torchft.process_group import ProcessGroup, ProcessGroupGloo, ProcessGroupNCCL

from muloco.outer.transport import TransportError

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class _NoHealing(CheckpointTransport[dict[str, object]]):
    """No worker is healed from another one: every round asks torchft for none. Its default would serve the weights to
    whoever asks, on all interfaces."""

    def metadata(self) -> str:
        return ""

    def send_checkpoint(self, dst_ranks, step, state_dict, timeout) -> None:
        raise TransportError("torchft asked to send a checkpoint, though no round allows healing")

    def recv_checkpoint(self, src_rank, metadata, step, timeout) -> dict[str, object]:
        raise TransportError("torchft asked to receive a checkpoint, though no round allows healing")

    def disallow_checkpoint(self) -> None:
        pass


class TorchftTransport:
    """One worker's end of a run that meets at a torchft lighthouse.

    Args:
        run: name of the run; part of the worker's identity at the lighthouse.
        worker: id of this worker, from 0.
        workers: number of workers, K; no round opens with fewer.
        lighthouse: address of the lighthouse, `http://host:port`.
        rank: which of the worker's ranks this is, of `ranks`.
        store: host and port of the worker's own store, already up.
        process_group: `gloo` (tensors on the CPU) or `nccl` (tensors on this rank's CUDA device).
        quorum_timeout: how long to wait for the other workers at a sync.
        exchange_timeout: how long one collective may take.
    """

    def __init__(
        self,
        *,
        run: str,
        worker: int,
        workers: int,
        lighthouse: str,
        rank: int,
        ranks: int,
        store: tuple[str, int],
        process_group: str,
        quorum_timeout: timedelta,
        exchange_timeout: timedelta,
    ):
        on_device = process_group == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_device else torch.device("cpu")
        self._workers = workers
        self._quorum_timeout = quorum_timeout
        self._group: ProcessGroup = (ProcessGroupNCCL if on_device else ProcessGroupGloo)(exchange_timeout)
        self._manager = Manager(
            pg=self._group,
            load_state_dict=None,
            state_dict=None,
            min_replica_size=workers,
            use_async_quorum=False,
            timeout=exchange_timeout,
            quorum_timeout=quorum_timeout,
            rank=rank,
            world_size=ranks,
            store_addr=store[0],
            store_port=store[1],
            lighthouse_addr=lighthouse,
            replica_id=f"{run}_{worker:03d}",  # zero-padded: torchft orders workers by it
            hostname="127.0.0.1" if any(host in lighthouse for host in _LOOPBACK) else socket.gethostname(),
            checkpoint_transport=_NoHealing(),
            init_sync=False,  # torchft's default throws away the first window of every worker but one
        )

    def open(self, step: int) -> "TorchftRound":
        try:
            self._manager.start_quorum(allow_heal=False)
        except (RuntimeError, TimeoutError) as error:
            raise TransportError(
                f"sync after step {step}: the {self._workers} workers did not meet within "
                f"{self._quorum_timeout.total_seconds():g} s (fault_tolerance.quorum_timeout_seconds): {error}"
            ) from error
        rank, size = self._manager.participating_rank(), self._manager.num_participants()
        if self._manager.errored() or rank is None or size != self._workers:
            raise TransportError(
                f"sync after step {step}: {size} of {self._workers} workers take part; {self._manager.errored() or ''}"
            )
        return TorchftRound(self._manager, self._group, rank, size, step)

    def close(self) -> None:
        self._manager.shutdown(wait=False)


class TorchftRound:
    """See `muloco.outer.transport.Round`."""

    def __init__(self, manager: Manager, group: ProcessGroup, rank: int, size: int, step: int):
        self._manager = manager
        self._group = group
        self._step = step
        self.rank = rank
        self.size = size
        self.bytes_sent = 0

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        self._wait(lambda: self._group.allgather([gathered], [tensor], AllgatherOptions()))
        self.bytes_sent += (self.size - 1) * tensor.nbytes
        return gathered

    def all_to_all(self, tensor: torch.Tensor) -> torch.Tensor:
        received = torch.empty_like(tensor)
        self._wait(lambda: self._group.alltoall_base(received, tensor, [], [], AllToAllOptions()))
        self.bytes_sent += (self.size - 1) * tensor[0].nbytes
        return received

    def commit(self, ok: bool) -> bool:
        votes = self.all_gather(torch.tensor([int(ok)], device=self._device))
        everyone = all(bool(vote.item()) for vote in votes)
        # A barrier of this worker's ranks; it also moves torchft's own step on, which has to stay equal everywhere.
        try:
            return self._manager.should_commit() and everyone
        except (RuntimeError, TimeoutError) as error:
            raise TransportError(
                f"sync after step {self._step}: the ranks of this worker did not agree: {error}"
            ) from error

    @property
    def _device(self) -> torch.device:
        return torch.device("cuda" if isinstance(self._group, ProcessGroupNCCL) else "cpu")

    def _wait(self, start) -> None:
        try:
            start().wait()
        except RuntimeError as error:
            raise TransportError(f"sync after step {self._step}: lost contact with another worker: {error}") from error
