"""The commit log of a worker, which lists the rounds that it has committed, and the progress of a run according to the
logs of all workers. This module needs only Python's standard library.

    commits/worker-NNN.log      begin ATTEMPT STEP CHECKSUM                       it is ready to go on after that step
                                commit ATTEMPT STEP FRAGMENT MEMBERS CHECKSUM     a committed round of a fragment that
                                                                                  was sent after that step; its members
                                                                                  are worker numbers, such as 0-2,5
                                lost LINES CHECKSUM                               this many lines could not be written

The worker's rank 0 appends each line at the commit, in one write. The logs and the answers of other workers show how
far a run has come and whether it has gone on without a worker; metrics are not used for this. Within an attempt the
steps of a log never decrease, so only its newest lines are read.
"""

import contextlib
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Protocol

from muloco.errors import error_reason
from muloco.runs.checked_lines import checked, content, end_torn_line, lines_from_end
from muloco.runs.folder import RunFolder
from muloco.runs.lines import LineFile, warn_once

ANSWERED = 64
"""Number of newest commits that a worker sends to others; after the last step there is one for each fragment."""


@dataclass(frozen=True)
class Commit:
    """A round that was committed."""

    attempt: int
    """Number of the attempt at the run."""
    step: int
    """Inner step after which the fragment was sent."""
    fragment: int
    members: frozenset[int]
    """Numbers of the workers that took part."""

    def to_line(self) -> str:
        """Returns the line of the log, without its end."""
        return checked(f"commit {self.attempt} {self.step} {self.fragment} {_as_ranges(self.members)}")


@dataclass(frozen=True)
class Begin:
    """A worker was ready to go on after a step."""

    attempt: int
    step: int

    def to_line(self) -> str:
        return checked(f"begin {self.attempt} {self.step}")


@dataclass(frozen=True)
class Lost:
    """Lines that could not be written."""

    lines: int

    def to_line(self) -> str:
        return checked(f"lost {self.lines}")


Entry = Commit | Begin | Lost


def parse(line: bytes) -> Entry | None:
    """Parses a line of a commit log; returns None if it is damaged or not from a commit log."""
    text = content(line) or ""
    if match := re.fullmatch(r"commit (\d{1,9}) (\d{1,15}) (\d{1,9}) ([\d,-]+)", text, re.ASCII):
        members = _from_ranges(match[4])
        return None if members is None else Commit(int(match[1]), int(match[2]), int(match[3]), members)
    if match := re.fullmatch(r"begin (\d{1,9}) (\d{1,15})", text, re.ASCII):
        return Begin(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"lost (\d{1,15})", text, re.ASCII):
        return Lost(int(match[1]))
    return None


class Log(Protocol):
    """The entries of one worker, wherever they are kept. Entries may be lost, and others may see them late."""

    def append(self, entry: Entry) -> None:
        """Adds an entry at the end."""
        ...

    def newest_first(self) -> Iterator[Entry]:
        """Yields the entries, the last one first."""
        ...


class LogFile:
    """See `Log`: the lines of a file. If the disk is full, lines are dropped: a warning says so once, and a later line
    says how many are missing.

    The file is closed after each line, so that NFS sends the line to the server at once, and is opened anew to be
    read."""

    def __init__(self, path: Path):
        self._path = path
        self._file: LineFile | None = None

    def append(self, entry: Entry) -> None:
        if self._file is None:
            with contextlib.suppress(OSError):  # the first line reports what is wrong with the file
                end_torn_line(self._path)
            self._file = LineFile(self._path, gap=lambda lines, reason: Lost(lines).to_line())
        self._file.append(entry.to_line())
        self._file.close()

    def newest_first(self) -> Iterator[Entry]:
        """Damaged lines are skipped, with one warning; a missing file has no entries."""
        path = self._path
        try:
            for line in lines_from_end(path):
                entry = parse(line)
                if entry is not None:
                    yield entry
                else:
                    warn_once(f"{path} has lines that are damaged or do not belong to a commit log; they are skipped")
        except FileNotFoundError:
            return
        except OSError as error:
            warn_once(f"{path} cannot be read: {error_reason(error)}; the commits in it are not known here")


class CommitLog:
    """Adds entries to a worker's log."""

    def __init__(self, log: Log, *, attempt: int):
        self._log = log
        self._attempt = attempt
        self._newest: deque[Commit] = deque(maxlen=ANSWERED)

    def begin(self, step: int) -> None:
        """Records that the worker is ready to go on after `step`."""
        self._log.append(Begin(self._attempt, step))

    def add(self, step: int, fragment: int, members: Collection[int]) -> None:
        """Records that the worker has committed, with `members`, the round of a fragment that was sent after `step`."""
        commit = Commit(self._attempt, step, fragment, frozenset(members))
        self._newest.append(commit)
        self._log.append(commit)

    def answer(self) -> bytes:
        """Returns the newest commits, as lines of the log, to be sent to other workers. The file is not read for it."""
        return "".join(f"{commit.to_line()}\n" for commit in list(self._newest)).encode()


@dataclass(frozen=True)
class Progress:
    """The progress of one attempt at a run, from the logs of all workers and the answers of those that can be reached.

    Nothing is kept between two questions, so the files of logs may shrink or be replaced. If a shared file system shows
    an old state, or there is none, the answers of the other workers make up for it."""

    logs: Sequence[Log]
    """The commit logs of all workers."""
    _: KW_ONLY
    attempt: int
    ask: Callable[[], Iterable[bytes]] = lambda: ()
    """Returns the results of `CommitLog.answer` of the other workers that can be reached, within a bounded time."""

    def reached(self) -> int:
        """Returns the step of the newest round that any worker has committed, or 0 if there is none."""
        return max((commit.step for commit in chain(self._logged(), self._answered())), default=0)

    def passed(self, step: int, fragment: int) -> bool:
        """Whether the round of a fragment after `step`, or a later one, was committed. A process that has not committed
        it was left behind, even if its worker is named among the members: another process of this worker was in that
        round, or this one has not learned of its outcome."""
        return any(
            commit.step > step or (commit.step, commit.fragment) == (step, fragment)
            for commit in chain(self._logged(), self._answered())
        )

    def _logged(self) -> Iterator[Commit]:
        for log in self.logs:
            yield from newest_commits(log, self.attempt)

    def _answered(self) -> Iterator[Commit]:
        for answer in self.ask():
            for line in answer.splitlines():
                entry = parse(line)
                if isinstance(entry, Commit) and entry.attempt == self.attempt:
                    yield entry


def newest_commits(log: Log, attempt: int) -> list[Commit]:
    """Returns the commits of the highest step that a log has for an attempt, the last one first."""
    commits: list[Commit] = []
    for entry in log.newest_first():
        if isinstance(entry, Lost) or entry.attempt > attempt:
            continue
        if entry.attempt < attempt or (commits and entry.step < commits[0].step):
            break
        if isinstance(entry, Commit):
            commits.append(entry)
    return commits


def newest_attempt(log: Log) -> int:
    """Returns the highest attempt at the end of a log, or 0 if there is none."""
    return next((entry.attempt for entry in log.newest_first() if not isinstance(entry, Lost)), 0)


def has_trained(folder: RunFolder, attempt: int) -> bool:
    """Whether a worker has trained in an attempt or in a later one, or was ready to."""
    return any(newest_attempt(LogFile(path)) >= attempt for path in folder.commit_logs())


def _as_ranges(members: Collection[int]) -> str:
    """Returns worker numbers as text, such as 0-2,5."""
    ordered = sorted(members)
    starts = [worker for worker in ordered if worker - 1 not in members]
    ends = [worker for worker in ordered if worker + 1 not in members]
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _from_ranges(text: str) -> frozenset[int] | None:
    """Parses the result of `_as_ranges`; returns None for any other text."""
    pairs = [re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part) for part in text.split(",")]
    known = [(int(pair[1]), int(pair[2] or pair[1])) for pair in pairs if pair]
    rising = all(a <= b for a, b in known) and all(a[1] < b[0] for a, b in pairwise(known))
    if len(known) < len(pairs) or not rising:
        return None
    return frozenset(worker for first, last in known for worker in range(first, last + 1))
