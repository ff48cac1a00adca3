"""Work beside the inner steps: one round at a time, in a thread of its own, or put off until its result is needed."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Pending(Generic[T]):
    """A result that comes later.

    Args:
        work: called once.
        concurrent: in a thread, from now on; else when the result is asked for.
        device: of the tensors that `work` uses; on an accelerator it gets a stream of its own, which waits for all
            that has been queued so far, and whoever takes the result waits for that stream.
    """

    def __init__(self, work: Callable[[], T], *, concurrent: bool, device: torch.device):
        self._work = work
        self._value: T | None = None
        self._error: BaseException | None = None
        self._done = False
        self.seconds = 0.0
        """How long the work took, once it is done."""
        self._stream: torch.Stream | None = None
        self._device = device
        self._thread: threading.Thread | None = None
        if concurrent:
            if device.type != "cpu":
                self._stream = torch.Stream(device)
                self._stream.wait_stream(torch.accelerator.current_stream(device))
            self._thread = threading.Thread(target=self._run, name="outer round", daemon=True)
            self._thread.start()

    @classmethod
    def of(cls, value: T) -> "Pending[T]":
        """A result that is there already."""
        return cls(lambda: value, concurrent=False, device=torch.device("cpu"))

    def result(self) -> T:
        """Waits for it; what the work raised is raised here."""
        if self._thread is not None:
            self._thread.join()
            if self._stream is not None:
                torch.accelerator.current_stream(self._device).wait_stream(self._stream)
        elif not self._done:
            self._run()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # there, as nothing was raised

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            if self._stream is None:
                self._value = self._work()
            else:
                torch.accelerator.set_device_index(self._device.index)
                with self._stream:
                    self._value = self._work()
        except BaseException as error:
            self._error = error
        self.seconds = time.perf_counter() - started
        self._done = True
