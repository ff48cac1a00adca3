"""Whose a run folder is, and what a start that fails leaves there."""

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.launch.claim import Claim, only_supervisor
from muloco.runs.attempts import begin_attempt
from muloco.runs.commits import CommitLog, LogFile
from muloco.runs.folder import RunFolder

from ..patience import PATIENCE

CONTENTS = {"chosen": {}, "resolved": {"a": [1, 2]}}


def claim(folder: RunFolder, *, fresh: bool = True) -> Claim:
    return Claim(folder, CONTENTS, attempt=1, fresh=fresh)


def test_of_two_runs_that_begin_at_once_one_has_the_folder(tmp_path: Path) -> None:
    """As two of one second have, which are named by it."""
    folder = RunFolder(tmp_path / "outputs" / "a")
    claim(folder)
    with pytest.raises(UserError, match="already holds a run; choose another --run.name"):
        claim(folder)
    assert folder.config.exists()


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(draft: Path, path: Path) -> None:
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    folder = RunFolder(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(UserError, match="No space left on device"):
            claim(folder)
    assert not folder.root.exists()
    claim(folder)
    before = folder.config.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(UserError, match="No space left on device"):
            Claim(folder, {**CONTENTS, "resolved": {}}, attempt=2, fresh=False)
    assert folder.config.read_bytes() == before and list(folder.root.iterdir()) == [folder.config]


def test_a_start_that_fails_is_taken_back_unless_a_worker_came_to_train(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    for attempt in (0, 1):
        begun = claim(folder)
        if attempt:
            begin_attempt(folder, attempt)
        begun.take_back()
        assert not folder.root.exists()
    first = claim(folder)
    folder.log(0).parent.mkdir()
    folder.log(0).write_text("why")
    first.take_back()
    assert not folder.config.exists() and folder.log(0).read_text() == "why"

    begun = claim(folder)
    CommitLog(LogFile(folder.commits(0)), attempt=0).begin(0)
    begun.take_back()
    assert not folder.config.exists()
    begun = claim(folder)
    CommitLog(LogFile(folder.commits(1)), attempt=1).begin(0)
    begun.take_back()
    assert folder.config.exists()

    before = folder.config.read_bytes()
    again = Claim(folder, {**CONTENTS, "resolved": {}}, attempt=2, fresh=False)
    assert folder.config.read_bytes() != before
    again.take_back()
    assert folder.config.read_bytes() == before


def test_a_resume_that_trained_in_a_later_attempt_keeps_its_config(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    claim(folder)
    again = Claim(folder, {**CONTENTS, "resolved": {}}, attempt=2, fresh=False)
    after = folder.config.read_bytes()
    CommitLog(LogFile(folder.commits(0)), attempt=3).begin(10)  # attempt 2 failed before it trained
    again.take_back()
    assert folder.config.read_bytes() == after


def test_a_start_that_is_taken_back_on_a_full_disk_leaves_a_whole_config(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    claim(folder)
    again = Claim(folder, {**CONTENTS, "resolved": {}}, attempt=2, fresh=False)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            again.take_back()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert json.loads(folder.config.read_text())["resolved"] == {}


def test_a_resume_that_changes_nothing_leaves_config_json_as_it_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    claim(folder)
    folder.config.write_text(folder.config.read_text().replace("\n", ""))
    before = folder.config.read_bytes()
    claim(folder, fresh=False)
    assert folder.config.read_bytes() == before


HOLD = """
import subprocess, sys
from muloco.launch.claim import only_supervisor
from muloco.runs.folder import RunFolder
with only_supervisor(RunFolder(sys.argv[1])):
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    print(worker.pid, flush=True)
    sys.stdin.read()
"""


def test_one_supervisor_trains_a_run_until_it_ends_however_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("muloco.launch.claim.ENDING_SECONDS", 0.1)
    folder = RunFolder(tmp_path / "outputs" / "a")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        worker = int(holder.stdout.readline())
        try:
            before = [(path, path.stat().st_mtime_ns) for path in sorted(folder.root.iterdir())]
            said = rf"{re.escape(str(folder.root))} is being trained \(process {holder.pid} on .*, since \d"
            with pytest.raises(UserError, match=said), only_supervisor(folder):
                raise AssertionError("two supervisors")
            assert [(path, path.stat().st_mtime_ns) for path in sorted(folder.root.iterdir())] == before
            holder.kill()
            holder.wait()
            with only_supervisor(folder):  # although its worker still runs
                assert f"process {holder.pid} on" in caplog.text and "waiting 0.1 s" in caplog.text
            caplog.clear()
            with only_supervisor(folder):
                assert not caplog.text, "the last one has ended in order"
        finally:
            holder.kill()
            os.kill(worker, signal.SIGKILL)
    assert not list(folder.root.iterdir())


def test_a_folder_that_is_deleted_and_made_again_is_still_that_of_its_supervisor(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    lock = folder.root / ".training"
    with only_supervisor(folder):
        shutil.rmtree(folder.root)
        folder.root.mkdir()
        deadline = time.monotonic() + PATIENCE
        while not (lock.exists() and lock.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(UserError, match=f"is being trained .process {os.getpid()} on"), only_supervisor(folder):
            raise AssertionError("two supervisors")
    assert not lock.exists()


def test_a_supervisor_whose_folder_another_one_has_taken_ends(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    lock = folder.root / ".training"
    with pytest.raises(KeyboardInterrupt), only_supervisor(folder):
        other = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(other, fcntl.LOCK_EX)
        (tmp_path / "lock").replace(lock)
        for _ in range(100 * PATIENCE):
            time.sleep(0.01)
    assert os.path.samestat(os.stat(lock), os.fstat(other)), "the lock of the other one stays"
    os.close(other)


def test_a_full_disk_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    folder = RunFolder(tmp_path / "a")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match="No space left on device"), only_supervisor(folder):
        raise AssertionError("without a name in the lock")
    assert not folder.root.exists()


def test_the_lock_of_a_run_touches_no_other_file(tmp_path: Path) -> None:
    other, folder = tmp_path / "other", RunFolder(tmp_path / "a")
    other.write_text("kept")
    folder.root.mkdir()
    (folder.root / ".training").symlink_to(other)
    with pytest.raises(UserError, match="cannot be written to"), only_supervisor(folder):
        pass
    assert other.read_text() == "kept"


def test_a_start_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data"), only_supervisor(RunFolder(tmp_path / "outputs" / "a")):
        raise UserError("no data")
    assert not list(tmp_path.iterdir())
