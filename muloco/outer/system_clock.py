"""The clock of the machine, with a thread for each work that is started."""

import threading
import time
from collections.abc import Callable


class SystemClock:
    """See `muloco.outer.protocol.clock.Clock`."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    def start(self, work: Callable[[], object], name: str) -> threading.Thread:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def condition(self) -> threading.Condition:
        return threading.Condition()
