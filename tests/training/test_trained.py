"""Checkpoints of runs whose folders and tokenizers were moved."""

import shutil
from pathlib import Path

import pytest
import torch

from muloco.cli import main
from muloco.runs.folder import read_json, write_json
from muloco.settings.load import load_config
from muloco.settings.stored import to_dict
from muloco.training.trained import find_trained

from ..run_on_disk import random_weights, write_run


def test_a_moved_run_is_used_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "outputs" / "a", {"anchor": random_weights()})
    stored = read_json(run.config)
    config = load_config(str(run.config))
    config.data.tokenizer = str(tmp_path / "gone")
    write_json(run.config, {**stored, "resolved": to_dict(config)})
    ids = find_trained(str(run.root)).tokenizer().encode_text("some text")
    shutil.move(run.root, tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    trained = find_trained("../moved")
    assert trained.step == 3 and trained.tokenizer().encode_text("some text") == ids
    assert Path(trained.config.data.tokenizer) == tmp_path / "moved" / "tokenizer"
    for name, tensor in random_weights().items():
        assert torch.equal(trained.weights()[name], tensor)
    assert main(["export", "../moved", "exported"]) == 0
    assert main(["generate", "../moved/checkpoint/step-3", "--prompt", "text", "--tokens", "2"]) == 0
    assert "text" in capsys.readouterr().out
