"""A run folder that is deleted while its run goes on."""

import shutil
from pathlib import Path

import pytest

from muloco.launch.kept_folder import KeptFolder
from muloco.runs.attempts import begin_attempt, next_attempt
from muloco.runs.commits import CommitLog, LogFile
from muloco.runs.folder import MetricsWriter, RunFolder, read_lines, write_json


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    begin_attempt(folder, 1)
    begin_attempt(folder, 2)
    write_json(folder.config, {"a": 1})
    return folder


@pytest.mark.parametrize("first", ["supervisor", "worker"])
def test_a_deleted_folder_is_made_anew_and_told_once(
    folder: RunFolder, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever notices it first: a worker that commits a round makes its part of the folder."""
    kept, contents, log = (
        KeptFolder(folder),
        folder.config.read_bytes(),
        CommitLog(LogFile(folder.commits(0)), attempt=2),
    )
    log.begin(0)
    kept.watch()
    assert not caplog.messages
    shutil.rmtree(folder.root)
    if first == "worker":
        log.add(4, 0, {0})
    for _ in range(3):
        kept.watch()
    assert folder.config.read_bytes() == contents and next_attempt(folder) == 3
    (said,) = caplog.messages
    assert f"config.json is missing in the run folder {folder.root}," in said and "\n" not in said


def test_what_keeps_a_folder_from_being_made_is_told_once(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    kept = KeptFolder(folder)
    shutil.rmtree(folder.root)
    folder.root.write_text("a file now")
    for _ in range(3):
        kept.watch()
    assert len(caplog.messages) == 1 and "cannot be written again" in caplog.text
    folder.root.unlink()
    kept.watch()
    assert folder.config.exists()


def test_metrics_go_on_in_a_folder_that_is_made_anew(folder: RunFolder) -> None:
    writer = MetricsWriter(folder.metrics(0), worker=0, attempt=2)
    writer.write(1, {"loss": 1.0})
    shutil.rmtree(folder.root)
    writer.write(2, {"loss": 2.0})
    writer.write(3, {"loss": 3.0})
    assert [line["step"] for line in read_lines(folder.metrics(0))] == [2, 3]
