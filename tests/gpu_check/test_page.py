"""The table at the end, and the page that is generated from rows and records."""

import json
from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.gpu_check.figures import shown
from muloco.gpu_check.page import PAGE, RECORDS, page, read_records
from muloco.gpu_check.record import Outcome, Record
from muloco.gpu_check.registry import ROWS
from muloco.gpu_check.table import WIDTH, table

MACHINE = {"device": "NVIDIA H100", "gpus": 1, "torch": "2.11.0"}


def record(date: str, rows: dict, **fields) -> dict:
    head = {"schema": 1, "date": f"{date}T10:00:00+00:00", "commit": "abc123", "rehearsal": False, "machine": MACHINE}
    return {**head, "rows": rows, "file": f"{date}.json", **fields}


def line(text: str, name: str) -> str:
    """The line of a row in the first table that has it."""
    return next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))


def test_the_committed_page_is_the_generated_one() -> None:
    assert PAGE.read_text() == page(read_records(RECORDS)), "run `make gpu-page`"


def test_without_a_record_nothing_has_been_checked() -> None:
    text = page([])
    assert f"None of the {len(ROWS)} rows has been checked" in text and "## Figures" not in text
    assert "| never |" in line(text, "digests")
    assert "| never; it needs a SLURM cluster |" in line(text, "slurm")
    assert "(4 GPUs)" in line(text, "tensor_parallel")
    assert all(f"| `{name}` |" in text for name in ROWS)


def test_a_row_shows_its_last_check() -> None:
    ok = {"status": "ok", "seconds": 1.0, "figures": {"gb_per_s": 1234.5}}
    failed = {"status": "FAIL", "seconds": 1.0, "reason": "other bits | there"}
    left_out = {"status": "left out", "seconds": 0.0, "reason": "the time is up"}
    records = [
        record("2031-01-01", {"digests": ok, "codec_bits": failed, "gpa": ok, "eval": left_out}),
        record("2031-02-01", {"digests": left_out, "codec_bits": ok, "gpa": failed}, machine={**MACHINE, "gpus": 8}),
    ]
    text = page(records)
    never = len(ROWS) - 3
    assert f"**Of {len(ROWS)} rows, 2 passed when last checked, 1 failed (`gpa`), and {never} have never" in text
    assert "| ok: NVIDIA H100, torch 2.11.0, commit abc123, 2031-01-01 |" in line(text, "digests")
    assert "| ok: 8 x NVIDIA H100, torch 2.11.0, commit abc123, 2031-02-01 |" in line(text, "codec_bits")
    assert "**FAIL**: other bits \\| there (8 x NVIDIA H100" in line(text, "gpa")
    assert "; ok before: NVIDIA H100, torch 2.11.0, commit abc123, 2031-01-01 |" in line(text, "gpa")
    assert "| never |" in line(text, "eval")
    figures = text.partition("## Figures")[2]
    assert "| `digests` | 1,234 GB/s | `results/gpu/2031-01-01.json` |" in figures
    assert "`results/gpu/2031-02-01.json`" in line(figures, "codec_bits")


def test_a_rehearsal_shows_nothing_about_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(record("2031-01-01", {}, rehearsal=True)))
    with pytest.raises(UserError, match="rehearsal, which shows nothing about a GPU"):
        read_records(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2, "rows": {}}'])
def test_a_file_that_is_not_a_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json is not"):
        read_records(tmp_path)


def test_records_are_read_in_the_order_of_their_dates(tmp_path: Path) -> None:
    for name, date in (("a", "2031-03-01"), ("b", "2031-01-01")):
        (tmp_path / f"{name}.json").write_text(json.dumps(record(date, {})))
    assert [one["file"] for one in read_records(tmp_path)] == ["b.json", "a.json"]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("copy_tb_per_s", 1.8, "copy: 1.8 TB/s"),
        ("eager_ms", 0.52967, "eager: 0.53 ms"),
        ("memory_gib", 12.3456, "memory: 12.3 GiB"),
        ("bf16_4096_tflops", 650.6, "bf16 4096: 651 TFLOP/s"),
        ("tflops_6n", 99.97, "100 TFLOP/s by 6N"),
        ("tokens_per_second", 123456, "123,456 tokens/s"),
        ("microseconds", 1234.5, "1,234 µs"),
        ("mfu", 0.3912, "MFU: 39.1 %"),
        ("muloco_of_gemm", 0.8, "muloco: 80 % of GEMM"),
        ("linear_4_bits", 4.0004, "linear 4: 4 bits"),
        ("logits_apart", 1.23456e-6, "logits apart: 1.23e-06"),
        ("syncs", 20000, "syncs: 20,000"),
        ("dion", "ImportError: no", "dion: ImportError: no"),
    ],
)
def test_a_figure_is_shown_with_its_unit(name: str, value: float | int | str, text: str) -> None:
    assert shown({name: value}) == text


def test_the_table_of_a_rehearsal_shows_no_speed(tmp_path: Path) -> None:
    found = Record(tmp_path / "record.json", {"rehearsal": True}, [ROWS["digests"]])
    figures = {"wait_ms": 1.0, "tokens_per_second": 5, "mfu": 0.1, "loss_last": 2.5, "waited_seconds": 1.0}
    found.set("digests", Outcome("ok", "", 2.04, figures), seconds=3)
    assert table(found).splitlines()[0].split("  ")[-1] == "loss last: 2.5"


def test_the_page_counts_the_checked_rows_of_each_part() -> None:
    outcome = {"status": "ok", "seconds": 1.0}
    records = [record("2031-01-01", {"muon_416M": outcome, "muon_150M": {**outcome, "status": "FAIL"}})]
    headings = [line for line in page(records).splitlines() if line.startswith("## muon:")]
    assert len(headings) == 1 and headings[0].endswith(" (2 of 4 checked)")


def test_the_table_shows_status_time_and_reason(tmp_path: Path) -> None:
    rows = [ROWS[name] for name in ("digests", "gpa", "eval")]
    found = Record(tmp_path / "record.json", {}, rows)
    found.set("digests", Outcome("ok", "", 2.04, {"gb_per_s": 1234.5, "rounds": 20000}), seconds=3)
    found.set("gpa", Outcome("FAIL", "it had not ended " * 20, 90), seconds=93)
    lines = table(found).splitlines()
    assert lines[0].split() == ["ok", "digests", "2.0", "s", "1,234", "GB/s,", "rounds:", "20,000"]
    assert lines[1].startswith("FAIL      gpa") and lines[2].startswith(" " * 20)
    assert max(map(len, lines)) <= WIDTH
    assert max(map(len, table(found, 80).splitlines())) <= 80
    assert lines[-3] == "left out, as the command was stopped: eval"
    assert lines[-1] == "3 checks: 1 ok, 1 failed, 1 left out"
    assert found.failed == ["gpa"]
