"""docs/compression.md: its commands as the command line reads them, its tables as the benchmarks print them."""

import importlib
import json
import re
import shlex

import pytest

from muloco.resolve import resolve
from muloco.settings.load import CHECKOUT, load_config

RESULTS = CHECKOUT / "results" / "compression"
TEXT = (CHECKOUT / "docs" / "compression.md").read_text()
COMMANDS, *TABLES = re.findall(r"^```\w*\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.mark.parametrize("command", COMMANDS.splitlines())
def test_every_command_can_run(command: str) -> None:
    words = shlex.split(command)
    assert words[:2] == ["muloco", "train"]
    assert resolve(load_config(words[2], words[3:])).compression.kind != "none"


@pytest.mark.parametrize(
    ("name", "module", "table"),
    [
        ("loss", "compression_loss_table", "table"),
        ("link", "compression_link", "table"),
        ("streaming", "compression_link", "streaming_table"),
    ],
)
def test_tables_are_those_of_the_results(name: str, module: str, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    result = json.loads((RESULTS / f"{name}.json").read_text())
    assert getattr(importlib.import_module(module), table)(result) + "\n" in TABLES


def test_rates_and_errors_of_the_codecs_are_those_of_the_results() -> None:
    methods = json.loads((RESULTS / "codecs.json").read_text())["methods"]
    rows = re.findall(r"^\| `(\w+)` *([^|]*?) *\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", TEXT, re.M)
    assert len(rows) > 10
    for kind, settings, *figures in rows:
        found = methods[f"{kind} {settings}".strip()]
        expected = (
            f"{found['bits_per_element']:.2f} {found['relative_error']:.3f} {found['encode_gigabytes_per_second']:.2f}"
        )
        assert figures == expected.split(), (kind, settings)


def test_claims_hold_fail_or_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    study = importlib.import_module("compression_loss_table")
    losses = {
        "fp32": 5.0,
        "fp32-seed2": 5.1,
        "topk-10%": 6.0,
        "topk-2.5%": 7.0,
        "topk-10%-ef": 5.5,
        "topk-2.5%-ef": 7.5,
    }
    losses |= {"statistical-4bit": 5.1, "linear-4bit": 5.2}
    result = {"runs": {f"{m}-{name}": {"loss": value} for m in ("muloco", "diloco") for name, value in losses.items()}}
    found = {claim: holds for claim, method, holds in study.claims(result) if method == "MuLoCo"}
    assert found["fewer elements lose more in top-k"] is True
    assert found["error feedback helps top-k"] is False, "at one fraction it does not"
    assert found["4 bits lose nothing (less than the seeds differ)"] is False, "linear does"
    assert found["2 bits lose more than 4"] is None
    assert study.over_fp32(result, "muloco", "topk-10%", feedback=True) == pytest.approx(10.0)
    assert study.paper_over_fp32("muloco", "topk-10%", feedback=False) == pytest.approx(4.88, abs=0.01)
