"""Tasks on this machine: how many at a time, what follows from others, what fails, what is taken up again."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from muloco.launch.processes import Child
from muloco.sweeps import local
from muloco.sweeps.local import Task, run_tasks

TASK = """
import sys, time
folder, name, seconds, status = sys.argv[1:]
started = time.time()
time.sleep(float(seconds))
if status == "0":
    open(f"{folder}/{name}", "w").write(f"{started} {time.time()}")
sys.exit(int(status))
"""


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks are small programs of their own instead of `muloco`."""

    def start(task: Task, threads: int) -> Child:
        command = [sys.executable, "-c", TASK, *task.words]
        return Child(task.name, command, log=task.log, environment={}, on_line=lambda line: None)

    monkeypatch.setattr(local, "_start", start)
    monkeypatch.setattr(local, "POLL_SECONDS", 0.01)


def task(folder: Path, name: str, *, seconds: float = 0.0, status: int = 0) -> Task:
    words = (str(folder), name, str(seconds), str(status))
    return Task(name, words, log=folder / f"{name}.log", is_done=(folder / name).exists)


def test_so_many_run_at_once_and_no_more(tmp_path: Path, quiet: Console) -> None:
    tasks = [task(tmp_path, str(number), seconds=0.3) for number in range(5)]
    left = lambda: [one for one in tasks if not one.is_done()]  # noqa: E731
    assert run_tasks(left, at_once=2, threads=1, console=quiet) == {}
    spans = [tuple(map(float, (tmp_path / one.name).read_text().split())) for one in tasks]
    together = [sum(start <= at < end for start, end in spans) for at, _ in spans]
    assert max(together) == 2
    assert all(one[0] <= other[0] for one, other in zip(spans[::2], spans[2::2], strict=False))


def test_what_is_pending_may_follow_from_what_was_done(tmp_path: Path, quiet: Console) -> None:
    first, second = task(tmp_path, "first"), task(tmp_path, "second")

    def pending() -> Iterator[Task]:
        if not first.is_done():
            yield first
        elif not second.is_done():
            yield second

    assert run_tasks(pending, at_once=2, threads=1, console=quiet) == {}
    assert second.is_done() and not run_tasks(pending, at_once=2, threads=1, console=quiet)


def test_what_fails_is_not_tried_again_and_the_rest_goes_on(tmp_path: Path) -> None:
    console = Console(record=True, width=300, quiet=False, file=(tmp_path / "said").open("w"))
    bad, good = task(tmp_path, "bad", status=3), task(tmp_path, "good")
    failed = run_tasks(lambda: [bad, *([] if good.is_done() else [good])], at_once=1, threads=1, console=console)
    assert failed == {"bad": f"exit status 3; log: {tmp_path / 'bad.log'}"} and good.is_done()
    said = console.export_text()
    assert "bad failed: exit status 3" in said and "good: done (" in said


def test_an_interruption_ends_what_runs(tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(running, bars):
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "_wait_for_end", interrupted)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_tasks(lambda: [task(tmp_path, "long", seconds=60)], at_once=1, threads=1, console=quiet)
    assert time.monotonic() - started < 30 and not (tmp_path / "long").exists()
