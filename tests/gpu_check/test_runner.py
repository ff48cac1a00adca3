"""Rows in separate processes: the ways in which a row can end, and the order in which rows run."""

import io
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from muloco.gpu_check.record import NOT_REACHED, Record
from muloco.gpu_check.row import Row
from muloco.gpu_check.runner import Limits, Runner

OK = "write({'status': 'ok', 'figures': {'speed': 3}})"
WRONG = "write({'status': 'FAIL', 'reason': 'two lines\\nof it'})"
RAISES = "raise RuntimeError('no luck')"
CRASHES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
HANGS = "import time; print('here', flush=True); time.sleep(600)"
NOT_HERE = "write({'status': 'left out', 'reason': 'it needs pytest'})"


def row(name: str, **fields) -> Row:
    return Row(name, what="", where=(), command="", module="x", **{"seconds": 0, **fields})


def check(
    tmp_path: Path,
    rows: Sequence[Row],
    code: Mapping[str, str],
    *,
    limits: Limits | None = None,
    terminal: bool = False,
) -> tuple[dict, str]:
    """Returns the rows in the file of the record, and the printed text. `code` has the check of each row by name; a row
    without one passes."""
    printed = io.StringIO()
    record = Record(tmp_path / "out" / "record.json", {"rehearsal": True}, rows)

    def command(row: Row, outcome: Path) -> list[str]:
        write = f"import json; write = lambda found: open({str(outcome)!r}, 'w').write(json.dumps(found))"
        return [sys.executable, "-c", f"{write}\n{code.get(row.name, OK)}"]

    runner = Runner(
        record,
        limits or Limits(gpus=1, seconds=600, at_once=2, threads=2),
        scratch=tmp_path,
        command=command,
        console=Console(file=printed, width=200, force_terminal=terminal),
    )
    runner.run(rows)
    return json.loads(record.path.read_text())["rows"], printed.getvalue()


def test_however_a_row_ends_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muloco.gpu_check.runner.SLACK_SECONDS", 1.0)
    code = {"wrong": WRONG, "raises": RAISES, "crashes": CRASHES, "hangs": HANGS, "not_here": NOT_HERE}
    rows = [row(name, seconds=0 if name == "hangs" else 20) for name in (*code, "good")]
    found, printed = check(tmp_path, rows, code)
    reasons = {name: (outcome["status"], outcome.get("reason", "")) for name, outcome in found.items()}
    took = reasons.pop("hangs")
    assert took[0] == "FAIL" and took[1].startswith("it exceeded its time limit: it was ended after ")
    assert reasons == {
        "wrong": ("FAIL", "two lines of it"),
        "raises": ("FAIL", "RuntimeError: no luck"),
        "crashes": ("FAIL", "killed by SIGSEGV"),
        "not_here": ("left out", "it needs pytest"),
        "good": ("ok", ""),
    }
    assert found["good"]["figures"] == {"speed": 3}
    assert all(name in printed for name in found) and "6/6" in printed
    assert (tmp_path / "out" / "logs" / "hangs.log").read_text() == "here\n"


def test_what_needs_more_gpus_or_a_row_that_failed_is_left_out(tmp_path: Path) -> None:
    rows = [
        row("first"),
        row("pair", gpus=2),
        row("large", memory_gib=48),
        row("second", after="first"),
        row("third", after="second"),
    ]
    limits = Limits(gpus=1, seconds=600, at_once=2, threads=2, memory_gib=24)
    found, _ = check(tmp_path, rows, {"first": WRONG}, limits=limits)
    assert found["pair"]["reason"] == "it needs 2 GPUs; there is 1"
    assert found["large"]["reason"] == "it needs a GPU of 48 GiB; this one has 24"
    assert found["second"]["reason"] == "it depends on first, which failed"
    assert found["third"]["reason"] == "it depends on second, which was left out"
    assert {found[name]["status"] for name in ("pair", "large", "second", "third")} == {"left out"}


def test_a_row_is_not_started_when_too_little_time_is_left(tmp_path: Path) -> None:
    rows = [row("long", seconds=700), row("needs", after="long"), row("short", seconds=1), row("other", seconds=701)]
    found, printed = check(tmp_path, rows, {}, limits=Limits(gpus=1, seconds=600, at_once=2, threads=2))
    reason = found["long"]["reason"]
    assert reason.startswith("too little time is left: ") and reason.endswith(" s of the estimated 700 s")
    assert found["needs"]["reason"] == "it depends on long, which was left out"
    assert found["short"]["status"] == "ok"
    lines = printed.splitlines()
    assert len(lines) == 2 and lines[-1].endswith("left out  3 checks, as the time is up: long, needs, other")


def test_without_estimates_rows_are_left_out_when_the_time_is_up(tmp_path: Path) -> None:
    limits = Limits(gpus=1, seconds=0, at_once=1, threads=1, estimates=False)
    found, _ = check(tmp_path, [row("late", seconds=700)], {}, limits=limits)
    assert found["late"]["reason"] == "the time is up"


def test_a_log_shows_that_a_long_row_starts(tmp_path: Path) -> None:
    limits = Limits(gpus=1, seconds=1e4, at_once=2, threads=2)
    rows = [row("long", seconds=1000), row("short", seconds=1)]
    _, printed = check(tmp_path, rows, {}, limits=limits)
    started = [line.split("started")[1].strip() for line in printed.splitlines() if "started" in line]
    assert started == ["long (about 1000 s)"]


def test_a_terminal_shows_what_is_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    seen: list[str] = []
    monkeypatch.setattr("rich.status.Status.update", lambda self, text: seen.append(text))
    _, printed = check(tmp_path, [row("long", seconds=30)], {}, terminal=True)
    assert re.fullmatch(r"running: long \d+ s; 0 of 1 done, \d+ s", seen[0]) and "started" not in printed


def test_a_row_that_the_end_of_the_call_interrupts_has_not_failed(tmp_path: Path) -> None:
    limits = Limits(gpus=1, seconds=0.5, at_once=1, threads=1)
    found, _ = check(tmp_path, [row("hangs"), row("later", seconds=5)], {"hangs": HANGS}, limits=limits)
    assert found["hangs"]["status"] == "left out"
    assert found["hangs"]["reason"].startswith("the time of the whole call ended ")
    assert found["later"]["reason"] == "too little time is left: 0 s of the estimated 5 s"


def test_a_row_that_measures_runs_alone_and_others_side_by_side(tmp_path: Path) -> None:
    """Each row keeps a file while it runs. The first two may run together, and each waits for the file of the other."""
    code = {
        name: f"""
import pathlib, time
here = pathlib.Path({str(tmp_path)!r})
(here / "runs-{name}").touch()
(here / "was-{name}").touch()
while not (here / "was-{meets}").exists():
    time.sleep(0.01)
if "{name}" == "{meets}":
    assert [path.name for path in here.glob("runs-*")] == ["runs-{name}"]
(here / "runs-{name}").unlink()
{OK}"""
        for name, meets in (("a", "b"), ("b", "a"), ("measures", "measures"), ("c", "c"))
    }
    rows = [row("a"), row("b"), row("measures", alone=True), row("c", alone=True)]
    found, _ = check(tmp_path, rows, code)
    assert {outcome["status"] for outcome in found.values()} == {"ok"}, found


def test_the_record_is_whole_after_every_row(tmp_path: Path) -> None:
    """The second row reads the record: the first row is ok in it, and the second and last have no outcome yet."""
    path = tmp_path / "out" / "record.json"
    reads = f"write({{'status': 'ok', 'figures': json.load(open({str(path)!r}))['rows']}})"
    rows = [row("first", alone=True), row("reads", alone=True), row("last", alone=True)]
    found, _ = check(tmp_path, rows, {"reads": reads})
    seen = found["reads"]["figures"]
    assert seen["first"]["status"] == "ok" and seen["first"]["figures"] == {"speed": 3}
    for name in ("reads", "last"):
        assert seen[name] == {"status": "left out", "seconds": 0.0, "reason": NOT_REACHED}


def test_an_interrupted_call_leaves_no_process_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is interrupted as by Ctrl-C while a row runs."""
    mark = tmp_path / "pid"
    code = {"hangs": f"import os, pathlib; pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n{HANGS}"}

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        if mark.exists() and mark.read_text():
            raise KeyboardInterrupt

    clock = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    monkeypatch.setattr("muloco.gpu_check.runner.time", clock)
    with pytest.raises(KeyboardInterrupt):
        check(tmp_path, [row("hangs")], code)
    assert not Path(f"/proc/{mark.read_text()}").exists()


def test_a_row_sees_as_many_gpus_as_it_needs(tmp_path: Path) -> None:
    code = dict.fromkeys(
        ("one", "two"), "import os; write({'status': 'ok', 'figures': {'gpus': os.environ['CUDA_VISIBLE_DEVICES']}})"
    )
    limits = Limits(gpus=4, seconds=600, at_once=2, threads=2, devices=("3", "5", "6", "7"))
    found, _ = check(tmp_path, [row("one"), row("two", gpus=2)], code, limits=limits)
    assert [found[name]["figures"]["gpus"] for name in ("one", "two")] == ["3", "3,5"]
