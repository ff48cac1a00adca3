"""The log of a worker: muloco's own messages, and warnings of other libraries."""

import logging
import os
import sys

from muloco.errors import UserError

LEVEL = "MULOCO_LOG"
"""Environment variable: the least level of messages from all libraries: DEBUG, INFO, WARNING or ERROR. Default: INFO
for muloco, WARNING for others."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
TIME = "%H:%M:%S"
"""Format of the time in the lines of logs."""
_TALKATIVE = {
    **dict.fromkeys(("torchft.manager", "torchft_quorums", "torchft_commits", "torchft_errors"), logging.ERROR),
    "muloco.optim": logging.WARNING,
}
"""Loggers that write several lines a round, for which the metrics of a sync have one; and one that writes a line for
each kind of parameter, which the trainer sums up."""
_THREAD = "worker "


def thread_name(worker: int) -> str:
    """Name of the thread of a worker, where there are several in a process: their messages begin with it."""
    return f"{_THREAD}{worker}"


def set_up_log(*, rank: int) -> None:
    """Sends the messages of this process to its output. Ranks other than 0 write only warnings and errors.

    Raises:
        UserError: MULOCO_LOG is not a level.
    """
    asked = os.environ.get(LEVEL)
    if asked is not None and asked not in LEVELS:
        raise UserError(f"{LEVEL} in the environment must be one of {', '.join(LEVELS)}; got {asked!r}")
    logging.basicConfig(
        level=asked or logging.WARNING,
        format="%(asctime)s %(levelname)s %(speaker)s%(message)s",
        datefmt=TIME,
        stream=sys.stdout,
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(_name_speaker)
    if asked is not None:
        return
    logging.getLogger("muloco").setLevel(logging.INFO if rank == 0 else logging.WARNING)
    for name, level in _TALKATIVE.items():
        logging.getLogger(name).setLevel(level)


def _name_speaker(record: logging.LogRecord) -> bool:
    thread = record.threadName or ""
    record.speaker = f"{thread}: " if thread.startswith(_THREAD) else ""
    return True
