"""The README's figures are those of the committed results."""

import json
import re

import pytest

from muloco.runs.folder import RunFolder, read_metrics
from muloco.settings.load import CHECKOUT

RUNS = sorted(config.parent for config in (CHECKOUT / "results").glob("*/*/config.json"))


def test_the_readmes_demo_is_the_committed_one() -> None:
    summary = json.loads((CHECKOUT / "results/first_light/demo/summary.json").read_text())
    table = dict(re.findall(r"│ ([\w/ -]+?) +│ (.+?) +│", (CHECKOUT / "README.md").read_text()))
    assert table == {
        "held-out loss": (
            f"{summary['validation_loss_before']:.4f} before, {summary['validation_loss']:.4f} after "
            f"({summary['validation_bits_per_byte']:.4f} bits per byte)"
        ),
        "training loss": f"{summary['training_loss']:.4f} at step {summary['steps']}",
        "tokens": f"{summary['tokens']:,} by {summary['workers']} workers",
        "tokens/s": f"{summary['tokens_per_second']:,.0f} by all workers, syncs included",
        "syncs": str(summary["syncs"]),
        "sent by a worker": f"{summary['bytes_sent_per_worker'] / 1e6:.1f} MB to other workers",
        "wall time": f"{summary['wall_seconds']:.0f} s",
    }


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_committed_anchors_are_equal_on_all_workers(run) -> None:
    lines = [line for line in read_metrics(RunFolder(run)) if line.get("event") == "sync"]
    workers = json.loads((run / "summary.json").read_text())["workers"]
    steps = {line["step"] for line in lines}
    assert len(lines) == workers * len(steps) > 0
    assert len({(line["step"], line["digest"]) for line in lines}) == len(steps)
