"""Cache entries, made by several processes at once and by some that die."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from muloco.cli import main
from muloco.data.cache import make_once
from muloco.errors import UserError

from ..patience import PATIENCE
from .test_nothing_lost import fail

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
    deadline = time.monotonic() + 1500
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
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def test_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    processes = [start(tmp_path / "entry", name, "lock") for name in "abc"]
    results = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], results
    (filled,) = tmp_path.glob("*.filled")
    assert {out for out, _ in results} == {filled.stem}


def test_without_locks_both_make_it_and_one_wins(tmp_path: Path) -> None:
    """Both have finished their draft before either moves it into place."""
    processes = [start(tmp_path / "entry", name, "race") for name in "ab"]
    results = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len(list(tmp_path.glob("*.filled"))) == 2
    assert len({out for out, _ in results}) == 1
    assert sum("another process prepared" in log for _, log in results) == 1
    assert not list(tmp_path.glob(".entry.*"))


def test_a_killed_process_leaves_neither_lock_nor_draft(tmp_path: Path) -> None:
    victim = start(tmp_path / "entry", "victim", "hang")
    await_file(tmp_path / "victim.filled")
    waiting = start(tmp_path / "entry", "heir", "lock")
    victim.kill()
    victim.communicate(timeout=PATIENCE)
    out, log = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, out) == (0, "heir"), log
    assert not list(tmp_path.glob(".entry.*"))


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        make_once(tmp_path / "entry", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]
    make_once(tmp_path / "entry", lambda folder: (folder / "whole").touch())
    assert (tmp_path / "entry" / "whole").exists()


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`prepare(*words)` is what the command writes to stderr; it has to end with the status 2."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"text {n} " * 200}) + "\n" for n in range(200)))
    monkeypatch.setenv("MULOCO_CACHE", str(tmp_path / "cache"))

    def run(*words: str, status: int = 2) -> str:
        command = ["prepare", "config/laptop/muon.py", "--data.corpus", str(tmp_path / "a.jsonl")]
        assert main([*command, "--validation.sequences", "8", *words]) == status
        return capsys.readouterr().err

    return run


def test_a_cache_that_cannot_be_written(prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    cache.touch()
    hint = "; MULOCO_CACHE in the environment names another folder for it\n"
    assert prepare() == f"muloco: the cache {cache} cannot be written: File exists{hint}"
    cache.unlink()
    monkeypatch.setattr(Path, "mkdir", fail(Path.mkdir, cache))  # as on a disk that is read-only
    assert prepare() == f"muloco: the cache {cache} cannot be written: Permission denied{hint}"


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    def no_space(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=f"the cache {tmp_path} cannot be written: No space left on device; MULOCO"):
        make_once(tmp_path / "entry", no_space)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


@pytest.mark.parametrize("name", ["meta.json", "train.tokens.npy", "train.offsets.npy", "tokenizer/tokenizer.json"])
def test_a_damaged_entry_is_one_line(prepare, tmp_path: Path, name: str) -> None:
    prepare(status=0)
    (folder,) = (tmp_path / "cache").glob("a.jsonl-*")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    said = prepare()
    assert said.startswith("muloco: damaged prepared corpus: ") and said.count("\n") == 1
    assert said.endswith(f"; delete the folder {folder} and prepare again\n")


def test_a_tokenizer_that_may_not_be_read(prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(status=0)
    (embedded,) = (tmp_path / "cache").glob("tokenizer-*")
    settings = embedded / "tokenizer_config.json"
    monkeypatch.setattr(Path, "open", fail(Path.open, settings))
    assert prepare("--data.tokenizer", str(embedded)) == (
        f"muloco: data.tokenizer {embedded} cannot be read: Permission denied\n"
    )
