"""The verdicts of the judge of attacks on runs that are written by hand, and the record and its table."""

import importlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from muloco.settings.load import CHECKOUT


@pytest.fixture
def attacking(monkeypatch: pytest.MonkeyPatch):
    """`attacking(name)` is the module of that name."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return lambda name: importlib.import_module(f"attacking.{name}")


def sync(worker: int, step: int, digest: str, *, time: float, weights: tuple[int, ...] = (0, 1)) -> dict:
    line = {"event": "sync", "worker": worker, "step": step, "digest": digest, "time": time, "attempt": 1}
    return {**line, "fragment": 0, "weights": dict.fromkeys(map(str, weights), 5)}


def write(run, worker: int, *lines: dict | bytes) -> None:
    path = run.root / "metrics" / f"worker-{worker:03d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for line in lines:
            file.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")


@pytest.fixture
def run(attacking, tmp_path: Path):
    """A run of two workers that has no processes of its own: that of the test stands for its supervisor."""
    made = attacking("live").LiveRun(tmp_path, "run", {}, workers=2)
    made.process = SimpleNamespace(pid=os.getpid(), poll=lambda: None)
    return made


def verdict(report) -> str:
    (found,) = (str(verdict) for verdict, count in report.counts.items() if count)
    return found


def test_a_run_that_goes_on_has_survived(attacking, run) -> None:
    judge, registry = attacking("judge"), attacking("registry")
    write(run, 0, sync(0, 5, "a", time=time.time() - 9))
    before = judge.look(run)
    later = time.time() + 60
    for worker in (0, 1):
        write(run, worker, *(sync(worker, step, f"{step}", time=later + step) for step in (10, 15)))
    assert verdict(judge.after(run, before, registry.Seen())) == "survived"
    assert verdict(judge.after(run, before, registry.Seen(refused="no"))) == "refused"
    assert verdict(judge.after(run, before, registry.Seen(wrong=["it was told the state"]))) == "lost"
    assert verdict(judge.after(run, before, registry.Seen(impossible="no kernel"))) == "not possible here"


def test_anchors_that_differ_are_a_loss(attacking, run) -> None:
    judge, registry = attacking("judge"), attacking("registry")
    before = judge.look(run)
    later = time.time() + 60
    for worker in (0, 1):
        write(run, worker, *(sync(worker, step, f"{step} of {worker}", time=later + step) for step in (10, 15)))
    report = judge.after(run, before, registry.Seen())
    assert verdict(report) == "lost" and "anchors differ: step 10" in report.notes[0]


def test_a_jump_and_a_loss_that_rises_are_a_loss(attacking, run) -> None:
    judge, registry = attacking("judge"), attacking("registry")
    held_out = {"worker": 0, "attempt": 1, "validation_loss": 5.0}
    write(run, 0, sync(0, 5, "a", time=time.time() - 9), {**held_out, "step": 5, "time": time.time() - 9})
    before = judge.look(run)
    later = time.time() + 60
    for worker in (0, 1):
        write(run, worker, *(sync(worker, step, f"{step}", time=later + step) for step in (100_000, 100_005)))
    write(run, 0, {**held_out, "step": 100_005, "time": later + 1, "validation_loss": 7.6})
    notes = judge.after(run, before, registry.Seen()).notes[0]
    assert "jumped from step 5 to 100005" in notes and "from 5.0 to 7.6" in notes


@pytest.mark.parametrize(("others", "expected"), [((), "hung"), ((0,), "lost")])
def test_no_sync_of_all_is_told_from_no_sync_at_all(
    attacking, run, monkeypatch: pytest.MonkeyPatch, others: tuple[int, ...], expected: str
) -> None:
    judge, registry = attacking("judge"), attacking("registry")
    monkeypatch.setattr(judge, "SYNC_SECONDS", 0.3)
    before = judge.look(run)
    for worker in others:
        write(run, worker, sync(worker, 10, "a", time=time.time() + 60, weights=others))
    assert verdict(judge.after(run, before, registry.Seen())) == expected


def test_bad_lines_are_no_syncs(run) -> None:
    bad = (b"\0\0\n", b'{"event": "sync", "st\n', b"[]\n", {**sync(0, 5, "a", time=1.0), "time": "now"})
    write(run, 0, *bad, sync(0, 10, "b", time=2.0), b'{"event": "sync"')
    assert [line["step"] for line in run.syncs()] == [10]


@pytest.mark.parametrize(
    ("code", "says", "expected"),
    [
        ("print('resume with --resume'); raise SystemExit(3)", "--resume", "ended as documented"),
        ("print('oh'); raise SystemExit(3)", "--resume", "lost"),
        ("print('resume with --resume'); raise SystemExit(4)", "--resume", "lost"),
        ("import time; time.sleep(60)", "", "hung"),
    ],
)
def test_an_end_is_judged_by_status_and_last_words(
    attacking, run, monkeypatch: pytest.MonkeyPatch, code: str, says: str, expected: str
) -> None:
    judge, registry = attacking("judge"), attacking("registry")
    monkeypatch.setattr(judge, "END_SECONDS", 2.0)
    with run.console.open("w") as output:
        run.process = subprocess.Popen([sys.executable, "-c", code], stdout=output)
    try:
        ending = registry.Ending(statuses=(3,), says=says, resumes=False)
        assert verdict(judge.ended(run, judge.look(run), ending)) == expected
    finally:
        run.process.kill()
        run.process.wait()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0"])
def test_ports_of_a_process(attacking, address: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.bind((address, 0))
        listener.listen()
        number = listener.getsockname()[1]
        found = [port for port in attacking("ports").listening([(os.getpid(), "test")]) if port.number == number]
    assert [(port.address, port.on_loopback, port.owner) for port in found] == [(address, address != "0.0.0.0", "test")]


def test_the_table_counts_tries_by_family_and_names_what_went_wrong(attacking, tmp_path: Path) -> None:
    registry, module = attacking("registry"), attacking("table")
    Verdict, Report = registry.Verdict, registry.Report
    of = {"does": "x", "must": "y", "scene": "", "short": False, "play": print}
    reports = [
        ("ports", "garbage", Report.of(Verdict.SURVIVED, tries=35)),
        ("ports", "keys", Report.of(Verdict.LOST, "keys were read")),
        ("kills", "one", Report.of(Verdict.ENDED)),
        ("kills", "two", Report.of(Verdict.IMPOSSIBLE, "no kernel")),
    ]
    path = tmp_path / "record.jsonl"
    lines = [module.entry(registry.Attack(family=f, name=n, **of), report, 1.0) for f, n, report in reports]
    path.write_text("".join(json.dumps(line) + "\n" for line in [{"command": "c"}, *lines]))
    assert module.table(module.read(path)).splitlines() == [
        "attacks on  tried  survived  refused  ended as documented  hung  lost",
        "ports          36        35        0                    0     0     1",
        "kills           1         0        0                    1     0     0",
        "all            37        35        0                    1     0     1",
        "ports, keys: 1 lost: keys were read",
        "kills, two: not possible here: no kernel",
    ]
    assert module.failed(lines) and not module.failed(lines[:1])


@pytest.mark.parametrize(
    "record", sorted((CHECKOUT / "results" / "attacks").glob("*.jsonl")), ids=lambda path: path.stem
)
def test_the_committed_attacks_were_survived_or_refused(attacking, record: Path) -> None:
    module = attacking("table")
    assert not module.failed(module.read(record))
