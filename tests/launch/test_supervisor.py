"""Whose a new run folder is."""

from pathlib import Path

import pytest

from muloco.launch.supervisor import _claim
from muloco.training.load import ConfigError
from muloco.training.run_folder import RunFolder


def test_of_two_runs_that_begin_at_once_one_has_the_folder(tmp_path: Path) -> None:
    """As two of one second have, which are named by it."""
    _claim(RunFolder(tmp_path / "outputs" / "a"))
    with pytest.raises(ConfigError, match="already holds a run; choose another --run.name"):
        _claim(RunFolder(tmp_path / "outputs" / "a"))
