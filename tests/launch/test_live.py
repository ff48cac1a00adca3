"""What the view shows, on a terminal and elsewhere."""

import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from muloco.launch.live import View
from muloco.runs.folder import MetricsTail, RunFolder
from muloco.settings.config import Config

HEADINGS = ["worker", "step", "loss", "tokens/s", "last sync", "MB sent", "held-out loss", "anchor", "doing"]
LINES = [
    {"worker": 0, "step": 30, "loss": 5.25, "tokens_per_second": 1234.5},
    {"worker": 1, "step": 29, "loss": 5.5, "tokens_per_second": 2000.0},
    {"worker": 0, "step": 30, "validation_loss": 5.125},
]


def sync(worker: int, step: int) -> dict[str, Any]:
    values = {"participants": 2, "fragment": 0, "bytes_sent": 2_500_000, "seconds_waited": 0.25, "digest": "ab" * 8}
    return {"worker": worker, "step": step, "event": "sync", **values}


def state(worker: int, step: int, what: str) -> dict[str, Any]:
    return {"worker": worker, "step": step, "event": "state", "state": what}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def view(
    workers: int = 2, *, terminal: bool = True, width: int = 120, height: int = 40, **fault_tolerance: Any
) -> tuple[View, io.StringIO, Clock]:
    """One of a run of 60 inner steps."""
    config = Config()
    config.fault_tolerance.group_size = workers
    for name, value in fault_tolerance.items():
        setattr(config.fault_tolerance, name, value)
    config.training.steps = 60
    config.run.name = "run"
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=terminal, width=width, height=height, color_system=None)
    return View(config, console, clock), out, clock


def frame(shown: View, *, width: int = 120) -> list[str]:
    """The lines that a terminal would show."""
    console = Console(file=io.StringIO(), width=width, height=100, color_system=None)
    with console.capture() as capture:
        console.print(shown.frame(), end="")
    return capture.get().splitlines()


def doing(shown: View, workers: int) -> list[str]:
    """What each of the workers does, where all of them are shown."""
    lines = frame(shown)
    start = lines[1].index("doing")
    return [line[start:].rstrip() for line in lines[2 : 2 + workers]]


def test_elsewhere_a_line_for_each_sync_by_whichever_worker_and_all_logs() -> None:
    shown, out, _ = view(terminal=False)
    with shown:
        shown.update([*LINES, sync(1, 30), sync(0, 30)])
        shown.log(1, "12:00:00 INFO fine [/not markup]")
    assert out.getvalue().splitlines() == [
        "step 30/60: sync of 2 workers, 2.5 MB sent by each, 0.25 s waited, anchor abababababababab",
        "worker 1 | 12:00:00 INFO fine [/not markup]",
    ]


def test_on_a_terminal_a_table_and_only_the_logs_that_need_attention() -> None:
    shown, out, _ = view()
    with shown:
        shown.update([*LINES, sync(0, 30)])
        shown.log(0, "12:00:00 INFO fine")
        shown.log(1, "12:00:00 WARNING hot")
    text = out.getvalue()
    assert "worker 1 | 12:00:00 WARNING hot" in text and "INFO fine" not in text
    for cell in ("5.2500", "1,234", "5.1250", "2.5", "abababababababab"):
        assert cell in text, cell


def test_where_a_run_is_taken_up_again_is_said_once() -> None:
    for terminal in (True, False):
        shown, out, _ = view(terminal=terminal)
        with shown:
            shown.update([state(worker, 20, "resumed") for worker in (0, 1)])
        assert out.getvalue().count("resumed from the checkpoint of step 20") == 1


def test_a_worker_that_comes_back_does_not_make_the_run_a_resumed_one() -> None:
    shown, out, _ = view(terminal=False)
    with shown:
        shown.update([state(0, 21, "training"), state(1, 21, "training")])
        shown.update([state(1, 20, "resumed")])
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (60, ["worker", "step", "loss", "tokens/s", "doing"]),
        (80, ["worker", "step", "loss", "tokens/s", "held-out loss", "doing"]),
        (120, HEADINGS),
    ],
)
def test_columns_give_way_to_what_the_workers_do(width: int, headings: list[str]) -> None:
    shown, _, _ = view(width=width)
    shown.update([*LINES, sync(0, 30), state(0, 30, "syncing"), state(1, 29, "training")])
    lines = frame(shown, width=width)
    assert [heading for heading in HEADINGS if heading in lines[1]] == headings
    assert "waits for worker 1" in lines[2]
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("workers", [1, 2, 11, 12, 16, 128])
@pytest.mark.parametrize(("width", "height"), [(60, 15), (80, 24), (120, 40)])
def test_it_fits_and_ends_with_all_workers(workers: int, width: int, height: int) -> None:
    shown, _, _ = view(workers, width=width, height=height)
    for worker in range(workers):
        step = 30 + worker
        line = {"worker": worker, "step": step, "loss": 5.0 + worker, "tokens_per_second": 123_456.0}
        shown.update([state(worker, step, "training"), line])
    lines = frame(shown, width=width)
    assert len(lines) < height and max(map(len, lines)) <= width
    span = "30" if workers == 1 else f"30-{29 + workers}"
    assert lines[-1].split()[:3] == ["all", span, f"{5 + (workers - 1) / 2:.4f}"]
    assert f"{workers} training" in lines[-1]
    left_out = workers - (len(lines) - 4)
    if workers + 4 <= height:
        assert len(lines) == workers + 3
    else:
        assert f"{left_out} more" in lines[-2] and f"{left_out} training" in lines[-2]


def test_where_there_is_no_room_those_come_first_that_need_attention() -> None:
    shown, _, _ = view(16, width=60, height=15)
    lines = [state(worker, 31, "syncing") for worker in range(16)]
    shown.update([*lines, state(9, 29, "training"), state(12, 0, "preparing data")], away={13: 8.0})
    rows = [line.split()[0] for line in frame(shown, width=60)[2:]]
    assert rows == ["13", "12", "9", *map(str, range(7)), "6", "all"]


START = [state(worker, 0, "meeting the others") for worker in range(3)]
TRAINING = [state(worker, 21, "training") for worker in range(3)]


@pytest.mark.parametrize(
    ("lines", "away", "said"),
    [
        ([], {}, ["starting"] * 3),
        ([state(0, 0, "preparing data")], {}, ["preparing data", "starting", "starting"]),
        (START[:2], {}, ["waits for worker 2"] * 2 + ["starting"]),
        (START[:1] + [state(2, 0, "validating")], {}, ["waits for worker 1 and 2", "starting", "validating"]),
        ([*TRAINING, state(1, 30, "syncing")], {}, ["training", "waits for worker 0 and 2", "training"]),
        ([*TRAINING, state(1, 30, "syncing"), state(0, 30, "syncing")], {}, ["waits for worker 2"] * 2 + ["training"]),
        ([*TRAINING, *(state(worker, 30, "syncing") for worker in range(3))], {}, ["syncing"] * 3),
        ([*TRAINING, state(1, 30, "syncing"), sync(0, 30), state(2, 31, "training")], {},
         ["training", "syncing", "training"]),
        (TRAINING, {2: 3.6}, ["training", "training", "lost, restarting in 4 s"]),
        (TRAINING, {2: None}, ["training", "training", "lost"]),
        ([*TRAINING, state(2, 20, "meeting the others")], {}, ["training", "training", "rejoining at the next sync"]),
        ([*TRAINING, state(0, 30, "syncing"), state(1, 30, "syncing"), state(2, 20, "meeting the others")], {},
         ["syncing", "syncing", "rejoining at the next sync"]),
        ([state(worker, 60, "finished") for worker in range(3)], {}, ["finished"] * 3),
    ],
)  # fmt: skip
def test_what_each_of_three_workers_does(lines: list[dict], away: dict, said: list[str]) -> None:
    shown, _, _ = view(3)
    shown.update(lines, away)
    assert doing(shown, 3) == said


def test_a_worker_that_is_started_again_is_starting() -> None:
    shown, _, _ = view(2)
    shown.update([state(0, 21, "training"), state(1, 21, "training")], away={1: 0.4})
    assert doing(shown, 2) == ["training", "lost, restarting in 0 s"]
    shown.update([])
    assert doing(shown, 2) == ["training", "starting"]


def test_a_lost_or_starting_worker_shows_no_figures_of_its_last_process() -> None:
    shown, _, _ = view(2)
    for worker in (0, 1):
        values = {"worker": worker, "step": 21, "loss": 5.5, "tokens_per_second": 4321.0, "validation_loss": 6.25}
        shown.update([sync(worker, 20), values, state(worker, 21, "training")])
    stale = ("5.5000", "4,321", "6.2500", "abab")
    assert all(one in frame(shown)[3] for one in stale)
    shown.update([], away={1: 3.0})
    assert not any(one in frame(shown)[3] for one in stale)
    shown.update([state(1, 0, "preparing")])
    assert not any(one in frame(shown)[3] for one in stale)
    assert all(one in frame(shown)[2] for one in stale)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "states",
    [
        ["syncing"] * 3 + ["training"],
        ["training"] * 90 + ["syncing"] * 9 + ["saving"],
        ["meeting the others"] * 3 + ["building the model"],
    ],
)
def test_the_total_of_what_workers_do_is_whole(width: int, states: list[str]) -> None:
    shown, _, _ = view(len(states), width=width, height=15)
    for worker, what in enumerate(states):
        line = {"worker": worker, "step": 30 + worker, "loss": 5.0, "tokens_per_second": 123_456.0}
        shown.update([sync(worker, 30), line, state(worker, 30 + worker, what)])
    total = frame(shown, width=width)[-1]
    assert "\u2026" not in total
    assert sum(int(count) for count in re.findall(r"(\d+) [a-z]", total)) == len(states)


def test_where_the_exchange_runs_beside_the_inner_steps_nobody_is_named() -> None:
    shown, _, _ = view(2, fragment_sync_delay=5)
    shown.update([state(0, 30, "syncing"), state(1, 24, "training")])
    assert doing(shown, 2) == ["syncing", "training"]


def test_in_one_process_progress_counts_all_workers_and_the_time_left_is_theirs() -> None:
    """Four workers take turns: each trains 30 steps in 30 seconds while the others stand still."""
    shown, _, clock = view(4, transport="in_process")
    shown.update(state(worker, 0, "meeting the others") for worker in range(4))
    for window in (1, 2):
        for worker in range(4):
            shown.update([state(worker, 30 * (window - 1), "training")])
            clock.now += 30
            shown.update([state(worker, 30 * window, "syncing")])
            done, left = frame(shown)[0].split()[-3].split("/")[0], frame(shown)[0].split()[-1]
            turns = 4 * (window - 1) + worker + 1
            assert done == f"{60 * turns / 8:.0f}"
            seconds = 30 * (8 - turns)
            assert left == f"0:{seconds // 60:02}:{seconds % 60:02}"
    assert doing(shown, 4) == ["waits for its turn"] * 4
    tokens = 60 * Config().training.global_batch_size * Config().training.seq_len
    assert f"{tokens / 240:,.0f}" in frame(shown)[-1]


def test_progress_of_a_run_that_is_taken_up_again_does_not_count_what_was_done_before() -> None:
    shown, _, clock = view(1)
    shown.update([state(0, 40, "training")])
    clock.now += 10
    shown.update([{"worker": 0, "step": 50, "loss": 2.0}])
    assert frame(shown)[0].split()[-3:] == ["50/60", "ETA", "0:00:10"]


@pytest.mark.parametrize("terminal", [True, False])
def test_no_damage_of_a_metrics_file_ends_the_view(terminal: bool, tmp_path: Path) -> None:
    """Bytes and values are changed, so that many lines are JSON of another kind."""
    random_, folder = random.Random(7), RunFolder(tmp_path)
    tail = MetricsTail(folder, 2)
    shown, _, _ = view(terminal=terminal, width=60)
    folder.metrics(0).parent.mkdir(parents=True)
    lines = [{"attempt": 1, **line} for line in (*LINES, sync(0, 30), state(0, 30, "syncing"), state(1, 3, "training"))]
    values: list[Any] = [None, True, "", " ", "x\ny", [], {}, -1, 10**400, float("nan"), float("inf"), -(2**62)]
    for _ in range(150):
        line = dict(random_.choice(lines))
        line[random_.choice(list(line))] = random_.choice(values)
        data = bytearray(json.dumps(line).encode())
        if random_.random() < 0.3:
            data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
        with folder.metrics(random_.randrange(2)).open("ab") as file:
            file.write(data + b"\n")
        shown.update(tail.new_lines())
        frame(shown)
