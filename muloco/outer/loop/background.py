"""Runs one round at a time in parallel with the inner steps, in a thread, or later, when its result is needed."""

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


# All rounds on a device share one stream: the caching allocator holds memory separately for each stream, so a new
# stream for every round would hold the memory of a round once for each of them.
#
# Freed memory may be reused only after its last use on any stream:
# - Memory that the training thread allocates and a round uses (the pseudogradient, a digest): the thread of the round
#   waits for the side stream before it releases its work, so the stream no longer reads this memory when it is freed.
# - Memory that a round allocates and the training thread uses (the mean): it is complete when the thread of the round
#   ends. When it is freed, only another round can reuse it, and a round starts by waiting for everything that the
#   training thread has queued. This requires one round at a time on a device, which `fragments.Schedule` ensures.
@cache
def _side_stream(device: torch.device) -> torch.Stream:
    return torch.Stream(device)


class Pending(Generic[T]):
    """A result that is computed later.

    Args:
        work: returns the result; it is called once.
        concurrent: whether `work` is called in a thread that starts now, or else when the result is asked for.
        device: device of the tensors that `work` uses. On an accelerator, concurrent work is queued on the device's
            side stream, which first waits for everything that is queued on the current stream. The thread ends when the
            device has finished the work.
    """

    def __init__(self, work: Callable[[], T], *, concurrent: bool, device: torch.device):
        self._work: Callable[[], T] | None = work
        self._value: T | None = None
        self._error: BaseException | None = None
        self._done = False
        self.seconds = 0.0
        """Seconds that the work took, once it is done."""
        self._stream: torch.Stream | None = None
        self._device = device
        self._thread: threading.Thread | None = None
        if concurrent:
            if device.type != "cpu":
                self._stream = _side_stream(device)
                self._stream.wait_stream(torch.accelerator.current_stream(device))
            self._thread = threading.Thread(target=self._run, name="outer round", daemon=True)
            self._thread.start()

    @classmethod
    def of(cls, value: T) -> "Pending[T]":
        """Returns a `Pending` whose result is there already."""
        return cls(lambda: value, concurrent=False, device=torch.device("cpu"))

    @property
    def failed(self) -> bool:
        """Whether the work is done and has failed."""
        return self._error is not None

    def again(self) -> "Pending[T]":
        """Returns the same work once more, after it has failed; it runs when its result is asked for."""
        assert self._error is not None and self._work is not None
        return Pending(self._work, concurrent=False, device=self._device)

    def result(self) -> T:
        """Waits for the result and returns it; an error of the work is raised here."""
        if self._thread is not None:
            self._thread.join()
        elif not self._done:
            self._run()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # there, as nothing was raised

    def _run(self) -> None:
        assert self._work is not None
        started = time.perf_counter()
        try:
            if self._stream is None:
                self._value = self._work()
            else:
                torch.accelerator.set_device_index(self._device.index)
                with self._stream:
                    try:
                        self._value = self._work()
                    finally:
                        self._stream.synchronize()
            self._work = None  # releases the tensors that it holds
        except BaseException as error:
            self._error = error
        self.seconds = time.perf_counter() - started
        self._done = True
