"""A process group on the CPU that behaves as torchft's NCCL group does."""

import random
from concurrent import futures
from datetime import timedelta

import torch
from torch.distributed import Work
from torch.distributed.distributed_c10d import AllToAllOptions
from torchft.process_group import ProcessGroupGloo

from muloco.outer.wire.peer_group import StreamGroup


class _Queued(Work):
    """A work in a queue. Later works wait for it, and the host does not."""

    def wait(self, timeout: timedelta | None = None) -> bool:
        return True


class _QueueingGloo(ProcessGroupGloo):
    """Works are done one after the other in a thread, like kernels on a stream. Nobody waits for them and nothing is
    raised: until a work is done, and for ever if it fails, what it should have received is garbage. A failure aborts
    the group. `errored` waits for the queue, and tells."""

    def __init__(self, timeout: timedelta):
        super().__init__(timeout)
        self._failure: Exception | None = None
        self._garbage = random.Random(0)
        self._stream = futures.ThreadPoolExecutor(1, "stream")
        self._last = self._stream.submit(lambda: None)

    def configure(self, *args, **kwargs) -> None:
        super().configure(*args, **kwargs)
        self._failure = None

    def abort(self, errored: bool = True) -> None:
        self._failure = RuntimeError("aborted")
        super().abort(errored)

    def errored(self) -> Exception | None:
        futures.wait([self._last])
        return self._failure

    def alltoall_base(
        self,
        output_buffer: torch.Tensor,
        input_buffer: torch.Tensor,
        output_split_sizes: list[int],
        input_split_sizes: list[int],
        opts: AllToAllOptions,
    ) -> Work:
        garbage = self._garbage.randbytes(output_buffer.numel())
        output_buffer.copy_(torch.frombuffer(bytearray(garbage), dtype=torch.uint8))

        def work() -> None:
            received = torch.empty_like(output_buffer)
            parts, sent = received.split(output_split_sizes), input_buffer.split(input_split_sizes)
            works = []
            try:
                works += [self.recv([part], r, 0) for r, part in enumerate(parts) if part.numel()]
                works += [self.send([part], r, 0) for r, part in enumerate(sent) if part.numel()]
                for one in works:
                    one.wait()
                output_buffer.copy_(received)
            except RuntimeError:
                self.abort()
            finally:
                works.clear()  # they would keep the connections open

        self._last = self._stream.submit(work)
        return _Queued()


class QueueingGroup(StreamGroup, _QueueingGloo):
    """To be given to a `TorchftTransport`."""
