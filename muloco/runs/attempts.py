"""The numbers of the attempts at a run, in `attempts.log` in its folder.

The supervisor appends a line, `attempt NUMBER TIME HOST CHECKSUM`, at each start or resume, before any worker begins.
No number is used twice, so that files of an earlier attempt are never taken for those of a later one.
"""

import logging
import re
import socket
from pathlib import Path
from time import gmtime, strftime

from muloco.runs.checked_lines import checked, content, end_torn_line
from muloco.runs.commits import LogFile, newest_attempt
from muloco.runs.folder import RunFolder, read_json, read_lines, unwritable

SHORTEST = len("attempt 1 2026-01-01T00:00:00Z h 00000000\n")
"""Number of bytes of the shortest possible line."""

logger = logging.getLogger(__name__)


def next_attempt(folder: RunFolder) -> int:
    """Returns 1 for a new run, and one more for each resume. If the file is missing, as in runs of earlier versions, or
    has damaged lines, the numbers in commit logs, checkpoints and metrics are also taken into account."""
    known, bad = _logged(folder.attempts)
    if known and not bad:
        return 1 + max(known)
    others = [
        *(newest_attempt(LogFile(path)) for path in folder.commit_logs()),
        *(_of_checkpoint(path) for path in folder.checkpoint.glob("*/manifest.json")),
        *(line["attempt"] for path in folder.metrics_files().values() for line in read_lines(path)),
    ]
    if bad:
        logger.warning("%s is damaged; up to %d attempts may be missing in it", folder.attempts, bad)
    return 1 + max([*known, *others, len(known) + bad], default=0)


def begin_attempt(folder: RunFolder, attempt: int) -> None:
    """Records that an attempt begins. Raises UserError if the file cannot be written."""
    line = checked(f"attempt {attempt} {strftime('%Y-%m-%dT%H:%M:%SZ', gmtime())} {socket.gethostname()}")
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        end_torn_line(folder.attempts)
        with folder.attempts.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise unwritable(error.strerror or error) from None


def _logged(path: Path) -> tuple[list[int], int]:
    """Returns the attempts that the file names, and the largest number of attempts that its damaged parts may hold."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    known, bad = [], 0
    for line in filter(None, lines):
        if match := re.match(r"attempt (\d{1,9}) ", content(line) or "", re.ASCII):
            known.append(int(match[1]))
        else:
            bad += 1 + len(line) // SHORTEST
    return known, bad


def _of_checkpoint(manifest: Path) -> int:
    try:
        attempt = read_json(manifest).get("attempt")
    except ValueError:
        return 0
    return attempt if isinstance(attempt, int) else 0
