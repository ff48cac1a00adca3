"""`muloco check-gpu` on the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from muloco.cli import main
from muloco.commands.check_gpu import _ended_as_by_ctrl_c
from muloco.gpu_check.bench import Bench, CheckFailed
from muloco.gpu_check.on_device import OnDevice
from muloco.gpu_check.registry import PARTS, ROWS

NO_GPU = {"device": "x86_64", "gpus": 0, "torch": "2.13.0", "cuda": None}


def test_a_machine_without_a_gpu_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("muloco.gpu_check.machine.facts", lambda: NO_GPU)
    assert main(["check-gpu", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "there is no GPU that PyTorch 2.13.0 (built without CUDA) can use;" in error
    assert "`muloco check-gpu --rehearse`" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "--minutes must be above 0; got 0"),
        (["--minutes", "nan"], "--minutes must be a finite number; got nan"),
        (["--at-once", "0"], "--at-once must be at least 1; got 0"),
        (["--parts", ","], "--parts must be one or more names, separated by commas"),
        (["--parts", "tiny"], "--parts: there is no 'tiny'"),
        (["--rehears"], "unknown option --rehears; did you mean --rehearse?"),
    ],
)
def test_a_mistake_is_told_in_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["check-gpu", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"muloco: {message}") and error.count("\n") == 1


def test_help_and_list_tell_parts_and_rows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["check-gpu", "--help"])
    text = capsys.readouterr().out
    assert all(f"  {part.name} " in text for part in PARTS)
    assert main(["check-gpu", "--list"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in ROWS)
    assert main(["check-gpu", "--list", "--rows", "offload"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("laptop: ") and re.findall(r"^  (\w+)  ", text, re.M) == ["in_process", "offload"]


def test_the_list_is_wrapped_at_the_width_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for columns in ("60", ""):
        monkeypatch.setenv("COLUMNS", columns) if columns else monkeypatch.delenv("COLUMNS", raising=False)
        assert main(["check-gpu", "--list"]) == 0
        said.append(capsys.readouterr().out)
    assert max(map(len, said[0].splitlines())) <= 60 < max(map(len, said[1].splitlines()))
    assert said[0].split() == said[1].split()


def test_a_rehearsal_of_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The quickest row, in the same processes as on a GPU."""
    words = ["--rehearse", "--rows", "gradient_watch", "--out", str(tmp_path)]
    assert main(["check-gpu", *words]) == 0
    assert "1 check: 1 ok, 0 failed, 0 left out" in capsys.readouterr().out
    (file,) = tmp_path.glob("*.json")
    record = json.loads(file.read_text())
    assert file.name.startswith("rehearsal-") and record["rehearsal"] is True
    assert record["machine"]["torch"] == torch.__version__ and record["commit"]
    outcome = record["rows"]["gradient_watch"]
    assert outcome["status"] == "ok" and outcome["figures"]["microseconds"] > 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "print('worker 1 failed: RuntimeError: no luck\\nlog: x'); raise SystemExit(1)",
            "RuntimeError: no luck",
        ),
        ("raise ValueError('bad')", "ValueError: bad"),
        ("import sys; sys.stderr.write('muloco: unknown option'); sys.exit(2)", "UserError: unknown option"),
        ("print('the end of it'); raise SystemExit(3)", "the end of it"),
    ],
)
def test_a_command_that_fails_within_a_row_is_told_with_its_reason(tmp_path: Path, code: str, reason: str) -> None:
    bench = Bench(torch.device("cpu"), tmp_path, rehearsal=True)
    with pytest.raises(CheckFailed, match=f"{reason}$"):
        bench.python("-c", code)


def test_a_command_ends_with_its_row(tmp_path: Path) -> None:
    """Also when the process of the row is killed: nothing is left on the GPU."""
    inner = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    outer = (
        "import pathlib, torch\nfrom muloco.gpu_check.bench import Bench\n"
        f"Bench(torch.device('cpu'), pathlib.Path({str(tmp_path)!r}), rehearsal=True).run('-c', {inner!r})"
    )
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = next(int(line) for line in process.stdout if line.strip().isdigit())
        process.kill()
    until = time.monotonic() + 30
    while (alive := Path(f"/proc/{pid}").exists()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_checks_as_ctrl_c_does(number: signal.Signals) -> None:
    before = _ended_as_by_ctrl_c()
    try:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(5)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handlers = _ended_as_by_ctrl_c()
    try:
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and signal.SIGHUP not in handlers
    finally:
        for one, handler in {**handlers, signal.SIGHUP: before}.items():
            signal.signal(one, handler)


def test_tensors_of_tests_are_made_on_the_device() -> None:
    """The meta device stands for a GPU."""
    meta = torch.device("meta")
    with OnDevice(meta):
        assert torch.zeros(3).device == meta
        assert torch.randn(3, generator=torch.Generator()).device == meta
        assert torch.zeros(3, device="cpu").device.type == "cpu"
    assert torch.zeros(3).device.type == "cpu"
