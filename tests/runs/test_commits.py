"""The commit logs of a run: what they say of its progress, whatever has become of the files, and how little is read."""

import builtins
import errno
import io
import os
import random
from pathlib import Path
from typing import Any

import pytest

from muloco.runs.checked_lines import checked, content, lines_from_end
from muloco.runs.commits import ANSWERED, CommitLog, LogFile, Progress, has_trained, newest_commits, parse
from muloco.runs.folder import RunFolder

K = 3


def log(folder: RunFolder, worker: int, *rounds: tuple[int, int, set[int]], attempt: int = 1) -> CommitLog:
    """Appends rounds (step, fragment, members) to a worker's log."""
    made = CommitLog(LogFile(folder.commits(worker)), attempt=attempt)
    for step, fragment, members in rounds:
        made.add(step, fragment, members)
    return made


def progress(folder: RunFolder, *, attempt: int = 1, answers: tuple[bytes, ...] = ()) -> Progress:
    return Progress([LogFile(folder.commits(other)) for other in range(K)], attempt=attempt, ask=lambda: answers)


def everything(logs: dict[int, list[tuple[int, int, int, set[int]]]], attempt: int) -> list[tuple[int, int, set[int]]]:
    """All rounds of an attempt, by reading all of what was written."""
    return [(step, part, who) for rounds in logs.values() for a, step, part, who in rounds if a == attempt]


@pytest.mark.parametrize("seed", range(5))
def test_the_newest_lines_say_what_all_of_them_say(tmp_path: Path, seed: int) -> None:
    """Against a search of all rounds. Whoever asks has come as far as a round that its worker was in, or not: another
    process of this worker may have been in it."""
    chance, folder = random.Random(seed), RunFolder(tmp_path)
    written: dict[int, list[tuple[int, int, int, set[int]]]] = {worker: [] for worker in range(K)}
    for attempt in (1, 2):
        for step in range(1, 120):
            members = {worker for worker in range(K) if chance.random() < 0.7}
            for fragment in chance.sample(range(4), chance.choice([1, 1, 4])):
                for worker in members:
                    log(folder, worker, (step, fragment, members), attempt=attempt)
                    written[worker].append((attempt, step, fragment, members))
    for attempt in (1, 2, 3):
        rounds = everything(written, attempt)
        for worker in range(K):
            asker = progress(folder, attempt=attempt)
            assert asker.reached() == max((step for step, _, _ in rounds), default=0)
            own = max((step for step, _, members in rounds if worker in members), default=0)
            for step in range(own, 121):
                for fragment in range(4):
                    gone_on = any(s > step or (s == step and f == fragment) for s, f, _ in rounds)
                    assert asker.passed(step, fragment) == gone_on, (worker, step, fragment)


def test_the_answers_of_others_make_up_for_files(tmp_path: Path) -> None:
    """An old view of a shared folder, a folder of its own, another attempt, and lines that are none."""
    folder = RunFolder(tmp_path)
    log(folder, 0, (4, 0, {0, 1, 2}))
    log(folder, 1, (4, 0, {0, 1, 2}))
    assert progress(folder).reached() == 4 and not progress(folder).passed(8, 0)
    elsewhere = RunFolder(tmp_path / "elsewhere")
    gone_on = log(elsewhere, 1, (4, 0, {0, 1, 2}), (8, 1, {1, 2}), (8, 0, {1, 2})).answer()
    for view in (folder, RunFolder(tmp_path / "none")):
        asker = progress(view, answers=(b"", gone_on))
        assert asker.reached() == 8
        assert asker.passed(8, 0) and asker.passed(8, 1) and asker.passed(7, 2) and not asker.passed(8, 2)
        assert not progress(view, attempt=2, answers=(gone_on,)).passed(8, 0)
        cut = gone_on[: gone_on.index(b"commit 1 8 1") + 20]
        assert progress(view, answers=(b"<html>", b"\xff\0" * 99, cut)).reached() == 4


def test_a_log_answers_from_memory_and_tells_the_newest(tmp_path: Path) -> None:
    """A disk on which nothing can be written."""
    (tmp_path / "commits").write_text("not a folder")
    own = log(RunFolder(tmp_path), 0, *((step, 0, {0}) for step in range(2 * ANSWERED)))
    said = [parse(line) for line in own.answer().splitlines()]
    assert [commit.step for commit in said] == list(range(ANSWERED, 2 * ANSWERED))
    assert progress(RunFolder(tmp_path)).reached() == 0


DAMAGE = {
    "torn": b"commit 1 9 0 0-2 0badc",
    "zeros": b"\0" * 9000,
    "zeros with an end": b"\0" * 40 + b"\n",
    "binary": bytes(range(256)) * 30 + b"\n",
    "another checksum": checked("commit 1 9 0 1-2").replace("commit 1 9", "commit 1 7").encode() + b"\n",
    "not a commit": checked("commit 1 9 0 2-1").encode() + b"\n",
    "no workers": checked("commit 1 9 0 ").encode() + b"\n",
    "metrics": b'{"event": "sync", "step": 9, "weights": {"1": 4}}\n',
    "empty lines": b"\n\n\n",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_lines_are_left_out_and_told_once(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    log(folder, 1, (4, 0, {0, 1, 2}), (8, 0, {1, 2}))
    with folder.commits(1).open("ab") as file:
        file.write(damage)
    assert progress(folder).reached() == 8 and progress(folder).passed(8, 0)
    log(folder, 1, (8, 1, {1, 2}))  # after another start
    for _ in range(2):
        assert progress(folder).reached() == 8 and progress(folder).passed(8, 0) and progress(folder).passed(8, 1)
    assert len(caplog.messages) == 1 and str(folder.commits(1)) in caplog.text


def test_every_flipped_bit_of_a_line_is_noticed() -> None:
    line = checked("commit 1 30 0 0-2,5").encode()
    assert parse(line) is not None and content(line) == "commit 1 30 0 0-2,5"
    for bit in range(8 * len(line)):
        flipped = bytearray(line)
        flipped[bit // 8] ^= 1 << bit % 8
        assert parse(bytes(flipped)) is None


def test_a_log_that_cannot_be_read_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path)
    folder.commits(0).mkdir(parents=True)
    log(folder, 1, (4, 0, {0, 1, 2}))
    assert [progress(folder).reached(), progress(folder).reached()] == [4, 4]
    assert len(caplog.messages) == 1 and "cannot be read" in caplog.text


def test_a_log_that_shrinks_or_is_replaced_is_read_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log(folder, 1, (4, 0, {0, 1, 2}), (8, 0, {1, 2}))
    asker, first = progress(folder), folder.commits(1).read_bytes().splitlines(keepends=True)[0]
    assert asker.reached() == 8
    folder.commits(1).write_bytes(first)
    assert asker.reached() == 4
    other = tmp_path / "other"
    other.write_bytes(first)
    other.replace(folder.commits(1))
    log(folder, 1, (12, 0, {1, 2}))
    assert asker.reached() == 12 and asker.passed(8, 0)


def test_a_full_disk_is_survived_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    own = log(folder, 0, (4, 0, {0}))
    with monkeypatch.context() as patch:

        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("muloco.runs.lines.FileIO", full)
        own.add(8, 0, {0})
        own.add(12, 0, {0})
    own.add(16, 0, {0})
    assert len(caplog.messages) == 1 and "No space left" in caplog.text
    caplog.clear()
    lines = list(map(parse, folder.commits(0).read_bytes().splitlines()))
    assert [type(line).__name__ for line in lines] == ["Commit", "Lost", "Commit"] and lines[1].lines == 2
    assert progress(folder).reached() == 16 and not caplog.messages


@pytest.mark.parametrize("size", [0, 1, 2, 4095, 4096, 4097, 12287, 12288, 12289, 40_000])
@pytest.mark.parametrize("ended", [True, False])
def test_lines_come_from_the_end(tmp_path: Path, size: int, ended: bool) -> None:
    chance = random.Random(size)
    data = bytes(chance.choice(b"abcdefghijklmnop\n") for _ in range(size)) + b"\n" * ended
    (tmp_path / "file").write_bytes(data)
    whole = data.split(b"\n")[:-1]
    assert list(lines_from_end(tmp_path / "file")) == whole[::-1]


def test_a_question_reads_the_same_little_of_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """K = 32 workers, after 30,000 steps in windows of 30 with four fragments: a block of each file, and few lines."""
    folder, workers, read, parsed = RunFolder(tmp_path), range(32), [], []
    rounds = [CommitLog(LogFile(tmp_path / "x"), attempt=1)]
    for step in range(30_000 * 4 // 30):
        rounds[0].add(step, step % 4, workers)
    whole = (tmp_path / "x").read_bytes()
    for worker in workers:
        folder.commits(worker).parent.mkdir(exist_ok=True)
        folder.commits(worker).write_bytes(whole)
    assert len(whole) > 100_000
    pread = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        read.append(size)
        return pread(descriptor, size, offset)

    monkeypatch.setattr("os.pread", counted)
    monkeypatch.setattr("muloco.runs.commits.parse", lambda line: parsed.append(line) or parse(line))
    asker = Progress([LogFile(folder.commits(worker)) for worker in workers], attempt=1)
    assert asker.reached() == 3999 and not asker.passed(4000, 0)
    assert sum(read) == 2 * 32 * 4096 and len(parsed) == 2 * 32 * 2


def test_who_has_trained_in_which_attempt(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not has_trained(folder, 1)
    CommitLog(LogFile(folder.commits(0)), attempt=1).begin(0)
    assert has_trained(folder, 1) and not has_trained(folder, 2)
    log(folder, 0, (4, 0, {0}))
    CommitLog(LogFile(folder.commits(1)), attempt=2).begin(4)
    assert has_trained(folder, 2) and newest_commits(LogFile(folder.commits(1)), 1) == []
    assert progress(folder, attempt=1).reached() == 4 and progress(folder, attempt=2).reached() == 0


def test_a_question_opens_no_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, opened = RunFolder(tmp_path), []
    folder.metrics(0).parent.mkdir()
    folder.metrics(0).write_text('{"event": "sync"}\n')
    log(folder, 0, (4, 0, {0}))
    real = io.open

    def watched(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(io, "open", watched)
    monkeypatch.setattr(builtins, "open", watched)
    assert progress(folder).reached() == 4 and progress(folder).passed(4, 1) is False
    assert opened and not any("metrics" in path for path in opened)
