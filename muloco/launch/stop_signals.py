"""SIGTERM, SIGUSR1 or SIGHUP to the supervisor: workers save a checkpoint after their next sync, and the run stops."""

import signal
from types import FrameType


class StopSignals:
    """The signal that has asked for a stop; use it as a context, in the main thread. A second signal raises
    KeyboardInterrupt, as Ctrl-C does, and ends the run at once. Under nohup, SIGHUP stays ignored."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def status(self, otherwise: signal.Signals) -> int:
        """Exit status of a run that was stopped: 128 and the number of the signal, which is `otherwise` where none has
        come here."""
        return 128 + (self.received or otherwise)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
