"""Whose a run folder is, and what a start that fails leaves there."""

from pathlib import Path

import pytest

from muloco.launch.claim import Claim
from muloco.training.load import ConfigError
from muloco.training.run_folder import MetricsWriter, RunFolder

CONTENTS = {"chosen": {}, "resolved": {"a": [1, 2]}}


def claim(folder: RunFolder, *, fresh: bool = True) -> Claim:
    return Claim(folder, CONTENTS, attempt=1, fresh=fresh)


def test_of_two_runs_that_begin_at_once_one_has_the_folder(tmp_path: Path) -> None:
    """As two of one second have, which are named by it."""
    folder = RunFolder(tmp_path / "outputs" / "a")
    claim(folder)
    with pytest.raises(ConfigError, match="already holds a run; choose another --run.name"):
        claim(folder)
    assert folder.config.exists()


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *args: object, **kwargs: object) -> int:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    folder = RunFolder(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(ConfigError, match="No space left on device"):
            claim(folder)
    assert not folder.root.exists()
    claim(folder)
    before = folder.config.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(ConfigError, match="No space left on device"):
            Claim(folder, {**CONTENTS, "resolved": {}}, attempt=2, fresh=False)
    assert folder.config.read_bytes() == before and list(folder.root.iterdir()) == [folder.config]


def test_a_start_that_fails_is_taken_back_unless_a_worker_came_to_train(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    claim(folder).take_back()
    assert not folder.root.exists()
    first = claim(folder)
    folder.log(0).parent.mkdir()
    folder.log(0).write_text("why")
    first.take_back()
    assert not folder.config.exists() and folder.log(0).read_text() == "why"

    begun = claim(folder)
    writer = MetricsWriter(folder.metrics(0), worker=0, attempt=1)
    writer.write(0, {"event": "fault"})
    begun.take_back()
    assert not folder.config.exists()
    begun = claim(folder)
    writer.write(0, {"validation_loss": 7.0})
    begun.take_back()
    assert folder.config.exists()

    before = folder.config.read_bytes()
    again = Claim(folder, {**CONTENTS, "resolved": {}}, attempt=2, fresh=False)
    assert folder.config.read_bytes() != before
    again.take_back()
    assert folder.config.read_bytes() == before


def test_a_resume_that_changes_nothing_leaves_config_json_as_it_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    claim(folder)
    folder.config.write_text(folder.config.read_text().replace("\n", ""))
    before = folder.config.read_bytes()
    claim(folder, fresh=False)
    assert folder.config.read_bytes() == before
