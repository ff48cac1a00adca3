"""The README's figures are those of the committed results."""

import json

import pytest

from muloco.runs.folder import RunFolder, read_metrics
from muloco.settings.load import CHECKOUT

RUNS = sorted(config.parent for config in (CHECKOUT / "results").glob("*/*/config.json"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_committed_anchors_are_equal_on_all_workers(run) -> None:
    lines = [line for line in read_metrics(RunFolder(run)) if line.get("event") == "sync"]
    workers = json.loads((run / "summary.json").read_text())["workers"]
    steps = {line["step"] for line in lines}
    assert len(lines) == workers * len(steps) > 0
    assert len({(line["step"], line["digest"]) for line in lines}) == len(steps)
