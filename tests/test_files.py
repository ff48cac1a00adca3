"""Files at paths that others can foresee: no link is followed, no content lost, and permissions are by the umask."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from muloco.files import (
    cut_torn_line,
    last_lines,
    lines_from,
    open_lock,
    remove_drafts,
    whole_folder,
    write_whole,
)


@pytest.fixture(params=[0o022, 0o077, 0o002])
def allowed(request: pytest.FixtureRequest) -> Iterator[int]:
    """The permissions of a new file under some umasks."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def test_a_lock_keeps_its_contents(tmp_path: Path, allowed: int) -> None:
    os.close(open_lock(tmp_path / "lock"))
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == allowed
    (tmp_path / "lock").write_text("kept")
    os.close(open_lock(tmp_path / "lock"))
    assert (tmp_path / "lock").read_text() == "kept"


@pytest.mark.parametrize("there", [True, False])
def test_a_lock_does_not_follow_a_link(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "target").touch()
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        open_lock(tmp_path / "lock")
    assert (tmp_path / "target").exists() == there


def test_a_file_takes_the_place_of_a_link(tmp_path: Path, allowed: int) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "file", "new ä")
    assert (tmp_path / "target").read_text() == "kept"
    assert (tmp_path / "file").read_text(encoding="utf-8") == "new ä" and not (tmp_path / "file").is_symlink()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == allowed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "target"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "file", "\ud800")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "kept")]


def test_a_folder_is_there_completely_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "folder") as draft:
        (draft / "file").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(tmp_path / "folder") as draft:
        (draft / "file").write_text("whole")
        assert not (tmp_path / "folder").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "file").read_text() == "whole"


@pytest.mark.parametrize("shared", [True, False])
def test_the_first_of_two_folders_is_kept(tmp_path: Path, shared: bool) -> None:
    refused = contextlib.nullcontext() if shared else pytest.raises(OSError, match="not empty")
    with refused, whole_folder(tmp_path / "folder", shared=shared) as draft:
        (draft / "second").touch()
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "first").touch()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["folder", "folder/first"]


def test_only_drafts_of_that_folder_are_removed(tmp_path: Path) -> None:
    for name in (".a.0123456789ab", ".a.b.0123456789ab", ".a.cache", "a"):
        (tmp_path / name).mkdir()
    remove_drafts(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {".a.b.0123456789ab", ".a.cache", "a"}


@pytest.mark.parametrize("text", ["", "a", "a\n", "a\nb", "a\n\nlong line\nb\n", "a\nlong torn line", "long torn line"])
@pytest.mark.parametrize("step", [1, 3, 4, 100])
def test_the_end_of_a_file(tmp_path: Path, text: str, step: int) -> None:
    """Against the same on the whole text."""
    (tmp_path / "file").write_text(text)
    complete = text[: text.rfind("\n") + 1]
    behind = [line.encode() for line in text[max(0, len(text) - step) :].split("\n")[:-1]]
    assert last_lines(tmp_path / "file", step) == behind[1 if len(text) > step else 0 :]
    lines, offset = lines_from(tmp_path / "file", 0)
    assert (lines, offset) == ([line.encode() for line in complete.split("\n")[:-1]], len(complete))
    cut_torn_line(tmp_path / "file", step)
    assert (tmp_path / "file").read_text() == complete


def test_a_line_that_is_too_long_is_read_in_parts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcdef\ng")
    assert lines_from(tmp_path / "file", 0, most=4) == ([b"abcd"], 4)
    assert lines_from(tmp_path / "file", 4, most=4) == ([b"ef"], 7)
    assert lines_from(tmp_path / "file", 7, most=4) == ([], 7)
