"""Questions to SLURM's controller, which may be busy or restarting for a while. Needs nothing but Python."""

import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

BUSY_SECONDS = 300.0
"""Seconds for which a question is repeated while the controller does not answer."""
PAUSE_SECONDS = 10.0
"""Seconds between two attempts."""
_BUSY = re.compile(
    r"unable to contact slurm controller|socket timed out|timed out on send/recv|connection (refused|reset|timed out)"
    r"|zero bytes were transmitted|temporarily un(able|available)|transport endpoint is not connected|did not answer"
    r"|controller is (down|not responding)|in standby mode",
    re.IGNORECASE,
)

T = TypeVar("T")


def is_busy(reason: str) -> bool:
    """Whether a command of SLURM failed because the controller did not answer, and not because of the request
    itself."""
    return _BUSY.search(reason) is not None


def ask_again(ask: Callable[[], T], errors: type[Exception]) -> T:
    """Returns the result of `ask`, which is called again for some minutes while it raises `errors` that say that the
    controller is busy. Other errors, and the last one, are raised."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return ask()
        except errors as error:
            if not is_busy(str(error)) or time.monotonic() > deadline:
                raise
            logger.warning("%s; asking again in %g s", error, PAUSE_SECONDS)
        time.sleep(PAUSE_SECONDS)
