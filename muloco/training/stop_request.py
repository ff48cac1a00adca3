"""Graceful stop of a worker on a signal: after the next sync, with a checkpoint."""

import os
import signal
from types import FrameType


class StopRequest:
    """Whether a signal has asked this process to stop.

    SIGUSR1 and SIGTERM ask; a second one ends the process at once, and so does SIGINT. Under torchrun SIGTERM too ends
    it at once, because that is how torchrun ends the other ranks when one has failed.
    """

    def __init__(self) -> None:
        self.made = False

    def listen(self) -> None:
        """Takes the signals from here on; in the main thread."""
        under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        for number in (signal.SIGUSR1,) if under_torchrun else (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})  # a launcher may have kept it back until now
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once, even where the process waits for others

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.made:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.made = True
