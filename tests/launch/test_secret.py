"""The secret of an attempt and its file."""

import os
from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.launch.secret import secret_of_attempt
from muloco.runs.folder import RunFolder
from muloco.training.environment import SECRET


@pytest.fixture
def odd_umask():
    before = os.umask(0o277)
    yield
    os.umask(before)


def test_each_attempt_has_a_new_one_in_a_file_of_its_user_alone(tmp_path: Path, odd_umask) -> None:
    file, seen = tmp_path / ".secret", set()
    for _ in range(2):
        with secret_of_attempt(RunFolder(tmp_path), {}) as secret:
            assert file.read_text() == f"{secret}\n" and len(bytes.fromhex(secret)) == 32
            assert file.stat().st_mode & 0o7777 == 0o600
            seen.add(secret)
        assert not file.exists()
    assert len(seen) == 2


def test_what_lies_in_its_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("of somebody else")
    (tmp_path / ".secret").symlink_to(tmp_path / "other")
    with secret_of_attempt(RunFolder(tmp_path), {}):
        assert not (tmp_path / ".secret").is_symlink()
    assert (tmp_path / "other").read_text() == "of somebody else"


def test_that_of_the_user_is_taken(tmp_path: Path) -> None:
    with secret_of_attempt(RunFolder(tmp_path), {SECRET: "the secret of the user"}) as secret:
        assert secret == "the secret of the user"
    with pytest.raises(UserError, match="5 characters"), secret_of_attempt(RunFolder(tmp_path), {SECRET: "short"}):
        pass


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with secret_of_attempt(RunFolder(tmp_path / "missing"), {}) as secret:
        assert len(secret) == 64
    assert "workers started by hand need MULOCO_SECRET" in caplog.text
