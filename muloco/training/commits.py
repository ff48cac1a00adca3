"""The commit log of a worker: which rounds it has committed, and what all of them together know of a run's progress.
Needs nothing but Python.

    commits/worker-NNN.log      begin ATTEMPT STEP CHECKSUM                       it is ready to go on after that step
                                commit ATTEMPT STEP FRAGMENT MEMBERS CHECKSUM     the round of a fragment that was sent
                                                                                  after that step; workers, as 0-2,5
                                lost LINES CHECKSUM                               so many lines could not be written

A log is only appended to, by the worker's rank 0, a line in one write at the commit. It decides, with what other
workers answer when they are asked, how far a run has come and whether it has gone on without a worker; metrics decide
nothing. Within an attempt the steps of a log never fall, so that the newest lines are all that is read.
"""

import contextlib
import functools
import logging
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from muloco.training.checked_lines import checked, content, end_torn_line, lines_from_end
from muloco.training.lines import LineFile
from muloco.training.run_folder import RunFolder

ANSWERED = 64
"""Number of the newest commits that a worker tells others: after the last step there is one for each fragment."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Commit:
    """A round that was committed."""

    attempt: int
    """At the run."""
    step: int
    """Inner step after which the fragment was sent."""
    fragment: int
    members: frozenset[int]
    """Workers that took part."""

    def to_line(self) -> str:
        """Returns the line of the log, without its end."""
        return checked(f"commit {self.attempt} {self.step} {self.fragment} {_as_ranges(self.members)}")


@dataclass(frozen=True)
class Begin:
    """A worker was ready to go on after a step."""

    attempt: int
    step: int

    def to_line(self) -> str:
        """Returns the line of the log, without its end."""
        return checked(f"begin {self.attempt} {self.step}")


@dataclass(frozen=True)
class Lost:
    """Lines that could not be written."""

    lines: int

    def to_line(self) -> str:
        """Returns the line of the log, without its end."""
        return checked(f"lost {self.lines}")


def parse(line: bytes) -> Commit | Begin | Lost | None:
    """What a line of a commit log says; None: it is damaged or foreign."""
    text = content(line) or ""
    if said := re.fullmatch(r"commit (\d{1,9}) (\d{1,15}) (\d{1,9}) ([\d,-]+)", text, re.ASCII):
        members = _from_ranges(said[4])
        return None if members is None else Commit(int(said[1]), int(said[2]), int(said[3]), members)
    if said := re.fullmatch(r"begin (\d{1,9}) (\d{1,15})", text, re.ASCII):
        return Begin(int(said[1]), int(said[2]))
    if said := re.fullmatch(r"lost (\d{1,15})", text, re.ASCII):
        return Lost(int(said[1]))
    return None


class CommitLog:
    """Appends to a worker's log. A full disk is survived: a warning says so once, a later line how many are missing.

    The file is closed after each line, so that NFS sends the line to the server at once.

    Args:
        path: of the log.
        attempt: at the run.
    """

    def __init__(self, path: Path, *, attempt: int):
        self._attempt = attempt
        self._newest: deque[Commit] = deque(maxlen=ANSWERED)
        with contextlib.suppress(OSError):  # the first line reports what is wrong with the file
            end_torn_line(path)
        self._file = LineFile(path, gap=lambda lines, reason: Lost(lines).to_line())

    def begin(self, step: int) -> None:
        """The worker is ready to go on after `step`."""
        self._append(Begin(self._attempt, step).to_line())

    def add(self, step: int, fragment: int, members: Collection[int]) -> None:
        """The worker has committed the round of a fragment that was sent after `step`, with all `members`."""
        commit = Commit(self._attempt, step, fragment, frozenset(members))
        self._newest.append(commit)
        self._append(commit.to_line())

    def answer(self) -> bytes:
        """The newest commits, as lines of the log: what other workers are told, whatever has become of the file."""
        return "".join(f"{commit.to_line()}\n" for commit in list(self._newest)).encode()

    def _append(self, line: str) -> None:
        self._file.append(line)
        self._file.close()


class Progress:
    """What the logs of all workers, and the answers of those that can be asked, know of one attempt at a run.

    Nothing is kept between two questions: each one opens the files anew and reads their ends, so that a file may shrink
    or be replaced. Where a shared file system shows an old state, or there is none, the answers of the other workers
    make up for it.

    Args:
        folder: of the run.
        worker: who asks.
        workers: K.
        attempt: at the run.
        ask: returns what `CommitLog.answer` gives at the other workers that can be reached, within a bounded time.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        worker: int,
        workers: int,
        attempt: int,
        ask: Callable[[], Iterable[bytes]] = lambda: (),
    ):
        self._files = [folder.commits(worker) for worker in range(workers)]
        self._worker, self._attempt, self._ask = worker, attempt, ask

    def reached(self) -> int:
        """The step of the newest round that any worker has committed; 0 where there is none."""
        return max((commit.step for commit in (*self._logged(), *self._answered())), default=0)

    def passed(self, step: int, fragment: int) -> bool:
        """Whether others have committed the round of a fragment after `step`, or a later one, without this worker."""
        return any(map(self._is_past(step, fragment), self._logged())) or any(
            map(self._is_past(step, fragment), self._answered())
        )

    def _is_past(self, step: int, fragment: int) -> Callable[[Commit], bool]:
        def judge(commit: Commit) -> bool:
            return self._worker not in commit.members and (
                commit.step > step or (commit.step, commit.fragment) == (step, fragment)
            )

        return judge

    def _logged(self) -> Iterator[Commit]:
        for path in self._files:
            yield from newest_commits(path, self._attempt)

    def _answered(self) -> Iterator[Commit]:
        for answer in self._ask():
            for line in answer.splitlines():
                said = parse(line)
                if isinstance(said, Commit) and said.attempt == self._attempt:
                    yield said


def newest_commits(path: Path, attempt: int) -> list[Commit]:
    """The commits of the highest step of an attempt that a log has, the last one first."""
    found: list[Commit] = []
    for said in _from_end(path):
        if isinstance(said, Lost) or said.attempt > attempt:
            continue
        if said.attempt < attempt or (found and said.step < found[0].step):
            break
        if isinstance(said, Commit):
            found.append(said)
    return found


def newest_attempt(path: Path) -> int:
    """The highest attempt that the end of a log tells of; 0 where it tells of none."""
    return next((said.attempt for said in _from_end(path) if not isinstance(said, Lost)), 0)


def has_trained(folder: RunFolder, attempt: int) -> bool:
    """Whether a worker has trained in an attempt or in a later one, or was ready to."""
    return any(newest_attempt(path) >= attempt for path in folder.commit_logs())


def _from_end(path: Path) -> Iterator[Commit | Begin | Lost]:
    """What a log says, the last line first. Lines that cannot be read are skipped, and the log of the process says so
    once; a missing log says nothing."""
    try:
        for line in lines_from_end(path):
            said = parse(line)
            if said is not None:
                yield said
            else:
                _warn_once(f"{path} has lines that are damaged or not of a commit log; they are skipped")
    except FileNotFoundError:
        return
    except OSError as error:
        _warn_once(f"{path} cannot be read: {error.strerror or error}; the commits in it are not known here")


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def _as_ranges(members: Collection[int]) -> str:
    """Workers as text, such as 0-2,5."""
    ordered = sorted(members)
    starts = [worker for worker in ordered if worker - 1 not in members]
    ends = [worker for worker in ordered if worker + 1 not in members]
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _from_ranges(text: str) -> frozenset[int] | None:
    """The workers of `_as_ranges`; None: the text is none of this kind."""
    pairs = [re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part) for part in text.split(",")]
    known = [(int(pair[1]), int(pair[2] or pair[1])) for pair in pairs if pair]
    rising = all(a <= b for a, b in known) and all(a[1] < b[0] for a, b in pairwise(known))
    if len(known) < len(pairs) or not rising:
        return None
    return frozenset(worker for first, last in known for worker in range(first, last + 1))
