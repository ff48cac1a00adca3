"""Cache entries, made by several processes at once and by some that die."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from muloco.data.cache import make_once

PROCESS = """
import errno, fcntl, logging, sys, time
from pathlib import Path
from muloco.data.cache import make_once

logging.basicConfig(level=logging.INFO)
entry, me, mode = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def no_locks(file, operation):
    raise OSError(errno.ENOLCK, "no locks here")

def fill(folder):
    (folder / "by").write_text(me)
    (entry.parent / f"{me}.filled").touch()
    deadline = time.monotonic() + 50
    while mode == "hang" or (mode == "race" and len(list(entry.parent.glob("*.filled"))) < 2):
        if time.monotonic() > deadline:
            sys.exit("the other process did not come")
        time.sleep(0.02)

if mode == "race":
    fcntl.flock = no_locks
make_once(entry, fill)
sys.stdout.write((entry / "by").read_text())
"""


def start(entry: Path, name: str, mode: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(entry), name, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_file(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def test_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    processes = [start(tmp_path / "entry", name, "lock") for name in "abc"]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], results
    (filled,) = tmp_path.glob("*.filled")
    assert {out for out, _ in results} == {filled.stem}


def test_without_locks_both_make_it_and_one_wins(tmp_path: Path) -> None:
    """Both have finished their draft before either moves it into place."""
    processes = [start(tmp_path / "entry", name, "race") for name in "ab"]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len(list(tmp_path.glob("*.filled"))) == 2
    assert len({out for out, _ in results}) == 1
    assert sum("another process prepared" in log for _, log in results) == 1
    assert not list(tmp_path.glob(".preparing-*"))


def test_a_killed_process_leaves_neither_lock_nor_draft(tmp_path: Path) -> None:
    victim = start(tmp_path / "entry", "victim", "hang")
    await_file(tmp_path / "victim.filled")
    waiting = start(tmp_path / "entry", "heir", "lock")
    victim.kill()
    victim.communicate(timeout=60)
    out, log = waiting.communicate(timeout=60)
    assert (waiting.returncode, out) == (0, "heir"), log
    assert not list(tmp_path.glob(".preparing-*"))


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        make_once(tmp_path / "entry", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]
    make_once(tmp_path / "entry", lambda folder: (folder / "whole").touch())
    assert (tmp_path / "entry" / "whole").exists()
