"""Children: their output is kept, their failures explained, and none outlives its parent."""

import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from muloco.errors import rank_ends
from muloco.launch.processes import LONGEST_LINE, Child, exception_in
from muloco.training.pulse import Sign

from ..patience import PATIENCE

LOG = """12:00:00 INFO step 1
Traceback (most recent call last):
  File "a.py", line 1, in f
    raise KeyError("x")
KeyError: 'x'

The above exception was the direct cause of the following exception:

[rank0]: Traceback (most recent call last):
[rank0]:   File "b.py", line 2, in g
[rank0]:     raise TransportError("gone")
[rank0]: muloco.outer.protocol.transport.TransportError: gone: see above
some warning of a library
Traceback (most recent call last):
  File "run.py", line 9, in run
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""


def start(tmp_path: Path, code: str) -> tuple[Child, list[str]]:
    lines: list[str] = []
    child = Child(
        "child", [sys.executable, "-c", code], log=tmp_path / "c.log", environment={"X": "42"}, on_line=lines.append
    )
    return child, lines


def wait(child: Child) -> int:
    deadline = time.monotonic() + PATIENCE
    while child.status is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return child.status


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_exception_of_a_log() -> None:
    assert exception_in(LOG) == "TransportError: gone: see above"
    assert exception_in("all is well\n") is None


@pytest.mark.parametrize("introduction", ["Exception in thread Thread-7 (run):", "[rank0]: Exception ignored in: <x>"])
def test_a_traceback_that_did_not_end_the_program_is_not_its_reason(introduction: str) -> None:
    aside = f"some line\n{introduction}\n{LOG.partition(chr(10))[2]}"
    assert exception_in(aside) is None
    raised = 'Traceback (most recent call last):\n  File "c.py", line 1, in h\nOSError: gone\n'
    assert exception_in(f"{raised}{aside}") == "OSError: gone" == exception_in(f"{aside}12:00:01 INFO on\n{raised}")


def test_output_goes_to_the_log_and_to_the_caller(tmp_path: Path) -> None:
    (tmp_path / "c.log").write_text("before\n")
    child, lines = start(tmp_path, "import os, sys; print('X', os.environ['X']); print('err', file=sys.stderr)")
    assert wait(child) == 0
    child.end(grace_seconds=5)
    assert sorted(lines) == ["X 42", "err"]
    assert (tmp_path / "c.log").read_text().startswith("before\n") and "X 42\n" in (tmp_path / "c.log").read_text()


def test_reasons(tmp_path: Path) -> None:
    child, _ = start(tmp_path, "raise ValueError('too much')")
    assert (wait(child), child.reason()) == (1, "ValueError: too much")
    child, _ = start(tmp_path, "import sys; sys.exit(3)")
    assert (wait(child), child.reason()) == (3, "exit status 3"), "an earlier attempt's traceback is not its reason"
    child, _ = start(tmp_path, "import sys; sys.stderr.write('muloco: no such thing\\n'); sys.exit(2)")
    assert (wait(child), child.reason()) == (2, "UserError: no such thing")
    child, _ = start(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert (wait(child), child.reason()) == (-9, "killed by SIGKILL")


CONSEQUENCE = """[rank0]: Traceback (most recent call last):
[rank0]:   File "a.py", line 1, in f
[rank0]: RuntimeError: Connection closed by peer
"""


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        ("muloco: no such flavor\n", 2, "UserError: no such flavor"),
        (rank_ends(1, 3, "RunFailed: the loss\nis NaN"), 3, "RunFailed: the loss is NaN"),
        (
            rank_ends(1, 3, "KeyError: 'w'") + "muloco: no such flavor\n" + rank_ends(2, 3, "KeyError: 'w'"),
            2,
            "UserError: no such flavor",
        ),
        (rank_ends(1, 1, "killed by SIGKILL"), 1, "killed by SIGKILL"),
        ("", 1, "RuntimeError: Connection closed by peer"),
    ],
)
def test_a_reason_is_that_of_the_rank_whose_status_it_is(tmp_path: Path, said: str, status: int, reason: str) -> None:
    """Not what the other ranks fail with as a consequence, earlier or later."""
    for log in (said + CONSEQUENCE, CONSEQUENCE + said):
        child, _ = start(tmp_path, f"import sys; sys.stderr.write({log!r}); sys.exit({status})")
        assert (wait(child), child.reason()) == (status, reason)


def test_one_that_will_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '60']).pid, flush=True)\n"
        "time.sleep(60)"
    )
    child, lines = start(tmp_path, code)
    deadline = time.monotonic() + PATIENCE
    while not lines and time.monotonic() < deadline:
        time.sleep(0.02)
    child.end(grace_seconds=0.2)
    assert child.status == -signal.SIGKILL
    wait_until_gone(int(lines[0]))


TALKS = "import sys\nfor i in range(3000): print(i, 'x' * 50)\nsys.stdout.flush(); print('end', file=sys.stderr)"
"""More than a pipe holds."""


def refuse(line: str) -> None:
    raise SystemExit(1)  # as rich does where its reader is gone


@pytest.mark.parametrize("log", ["c.log", "full"])
@pytest.mark.parametrize("refuses", [False, True])
def test_a_child_is_read_to_its_end_whatever_becomes_of_what_it_says(
    tmp_path: Path, log: str, refuses: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    lines: list[str] = []
    child = Child(
        *("child", [sys.executable, "-c", TALKS]),
        log=tmp_path / log,
        environment={},
        on_line=refuse if refuses else lines.append,
    )
    assert wait(child) == 0
    child.end(grace_seconds=5)
    if log == "c.log":
        assert len((tmp_path / log).read_text().splitlines()) == 3001
    if not refuses:
        assert len(lines) == 3001
    assert len(caplog.records) == (log == "full") + refuses, "each is told once"


def test_a_place_among_others_is_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "RANK LOCAL_RANK GROUP_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID PET_NNODES"
    )
    for name in names.split():
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("RANKING", "kept")
    child, lines = start(tmp_path, f"import os; print([n for n in {(names + ' RANKING').split()} if n in os.environ])")
    assert wait(child) == 0
    child.end(grace_seconds=5)
    assert lines == ["['RANKING']"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_die_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from muloco.launch.processes import Child\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        f"child = Child('c', command, log=Path({str(tmp_path / 'c.log')!r}), environment={{}}, on_line=print)\n"
        "print(child._process.pid, flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    wait_until_gone(pid)


def test_a_run_in_the_background_of_a_script_ends_its_children_as_any_other(tmp_path: Path) -> None:
    """There a shell has SIGINT ignored, and a program inherits that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
        lines: list[str] = []
        child = Child(
            "child", command, log=tmp_path / "c.log", environment={}, on_line=lines.append, end_signal=signal.SIGINT
        )
        while not lines:
            time.sleep(0.05)
        child.ask_to_end()
        assert wait(child) in (-signal.SIGINT, 1)  # as Python ends a program on KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)
        child.end(1.0)


def test_signs_of_life_are_not_shown(tmp_path: Path) -> None:
    child, lines = start(tmp_path, r"print('one'); print('\x1epulse 3 training'); print('two\x1epulse 4 syncing')")
    assert wait(child) == 0
    child.end(grace_seconds=5)
    assert (child.signs, child.sign) == (2, Sign(4, "syncing"))
    assert lines == ["one", "two"] == (tmp_path / "c.log").read_text().splitlines()


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    """A progress bar goes on by carriage returns, other output by nothing at all."""
    code = "import sys\nfor _ in range(64): sys.stdout.write('x' * (1 << 20))\nsys.stdout.write('\\r50 %\\r100 %')"
    tracemalloc.start()
    pieces = []
    child = Child(
        *("child", [sys.executable, "-c", code]),
        log=tmp_path / "c.log",
        environment={},
        on_line=lambda line: pieces.append(len(line)),
    )
    assert wait(child) == 0
    child.end(grace_seconds=PATIENCE)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(pieces) == (64 << 20) + len("50 %100 %") and max(pieces) == LONGEST_LINE
    assert most < 16 << 20


def test_the_reason_that_is_given_stands(tmp_path: Path) -> None:
    child, _ = start(tmp_path, "import time; time.sleep(60)")
    child.end(grace_seconds=5, because="stood still")
    child.end(grace_seconds=5)
    assert child.reason() == "stood still"
