"""The list of models."""

import pytest

from muloco.cli import main
from muloco.model.architectures.titan.sizes import OBSTACLES
from muloco.model.flavors import aliases, flavor


def test_every_model_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["flavor", "parameters", "active", "vocabulary", "TP", "PP", "hub"]
    cells = {line.split()[0]: line.split()[1:] for line in lines[: len(aliases())]}
    assert list(cells) == aliases()
    assert cells["qwen3/30B-A3B"] == ["30.5B", "3.35B", "151,936", "yes", "yes", "yes"]
    assert cells["gpt_oss/20b"][3:] == ["no", "yes", "no"] and cells["llama3/1B"][3:] == ["yes", "no", "yes"]
    assert cells["150M"] == ["151M", "151M", "128,256", "yes", "yes", "yes"]
    for model, reason in OBSTACLES.items():
        assert f"torchtitan's {model} cannot be trained: it {reason}" in lines
    assert flavor("qwen3/8B").longest == 40960
