"""The numbers of the attempts at a run: none is used twice, whatever has become of a file."""

import json
from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.runs.attempts import begin_attempt, next_attempt
from muloco.runs.commits import CommitLog, LogFile
from muloco.runs.folder import MetricsWriter, RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Returns the folder of a run that was started three times."""
    folder = RunFolder(tmp_path / "run")
    for attempt in (1, 2, 3):
        assert next_attempt(folder) == attempt
        begin_attempt(folder, attempt)
    return folder


def test_each_start_has_the_next_number(folder: RunFolder) -> None:
    assert next_attempt(folder) == next_attempt(folder) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: data.replace(b"attempt 3", b"attempt 1"),
        lambda data: data[:-60] + b"\0" * 60,
        lambda data: data[: data.index(b"\n") + 1] + b"\xff\n\xfe\n",
        lambda data: data + b"attempt 3 torn",
    ],
)
def test_a_line_that_cannot_be_read_may_be_an_attempt(folder: RunFolder, damage) -> None:
    folder.attempts.write_bytes(damage(folder.attempts.read_bytes()))
    number = next_attempt(folder)
    assert number >= 4
    begin_attempt(folder, number)
    assert next_attempt(folder) > number


def of_metrics(folder: RunFolder) -> None:
    writer = MetricsWriter(folder.metrics(0), worker=0, attempt=7)
    writer.write(0, {"event": "state", "state": "x"})
    writer.close()


def of_commits(folder: RunFolder) -> None:
    CommitLog(LogFile(folder.commits(5)), attempt=7).begin(0)


def of_checkpoint(folder: RunFolder) -> None:
    manifest = folder.checkpoint / "step-8" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"step": 8, "attempt": 7}))
    (folder.checkpoint / "step-9").mkdir()
    (folder.checkpoint / "step-9" / "manifest.json").write_text("{")


@pytest.mark.parametrize("left", [of_metrics, of_commits, of_checkpoint])
@pytest.mark.parametrize("file", [None, b"", b"garbage without an end", b"\0" * 100 + b"\n"])
def test_where_the_file_is_gone_or_damaged_all_else_counts(tmp_path: Path, left, file: bytes | None) -> None:
    """A run of an earlier version has no such file."""
    folder = RunFolder(tmp_path)
    left(folder)
    if file is not None:
        folder.attempts.write_bytes(file)
    assert next_attempt(folder) == 8


def test_what_is_read_costs_no_metrics(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    of_metrics(folder)
    monkeypatch.setattr("muloco.runs.attempts.read_lines", None)
    assert next_attempt(folder) == 4


def test_a_folder_in_which_nothing_can_be_noted_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.attempts.mkdir()
    with pytest.raises(UserError, match=r"the run folder cannot be written to .*: Is a directory"):
        begin_attempt(folder, 1)
