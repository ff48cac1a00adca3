"""Files at paths that others can foresee: no link is followed, no content lost, and permissions are by the umask."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from muloco.files import open_lock, write_whole


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
