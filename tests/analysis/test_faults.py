"""The model of runs with faults, against courses worked out by hand, and what `muloco plan --faults` says by it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from muloco.analysis.faults import Kill, Pace, forecast, poisson
from muloco.cli import main

PACE = Pace(workers=4, window=10, step=1.0, heartbeat_timeout=3.0, checkpoint=1)
PLAN = ["plan", "config/laptop/muloco.py"]


def test_without_faults_nothing_is_lost() -> None:
    found = forecast(PACE, [], syncs=10)
    assert (found.efficiency, found.share, found.slowdown, found.throughput) == (1, 1, 1, 1)
    assert (found.kills, found.lost, found.longest) == (0, 0, 0)


@pytest.mark.parametrize("quiet", [0, 1, 6])
def test_a_worker_misses_the_syncs_until_it_has_joined_again(quiet: int) -> None:
    """Killed at 25 s, it misses the syncs at 30 and 40 s; at the latter it is back and joins."""
    found = forecast(PACE, [Kill(10 * quiet + 25, 1, 15)], syncs=10)
    assert found.efficiency == pytest.approx(1 - 2 / 40) and found.share == pytest.approx(38 / 39)
    assert (found.slowdown, found.kills, found.next_sync, found.longest) == (1, 1, 5, 0)


def test_the_others_wait_until_the_heartbeat_timeout() -> None:
    found = forecast(PACE, [Kill(29, 1, 5)], syncs=10)
    assert (found.next_sync, found.longest, found.lost) == (3, 2, 2)
    assert found.slowdown == pytest.approx(1.02) and found.throughput == pytest.approx(found.efficiency / 1.02)


def test_an_exchange_is_repeated_once_it_has_failed() -> None:
    """It takes from 10 to 15 s, and the worker is killed at 12 s."""
    kill = Kill(12, 1, 500)
    at_once, late = (forecast(replace(PACE, exchange=5.0, breaks=breaks), [kill], syncs=10) for breaks in (0.0, 60.0))
    assert at_once.next_sync == 12 + 3 + 5 - 12 and at_once.longest == 5
    assert late.next_sync == 12 + 60 + 5 - 12 and late.longest == 62


def test_a_worker_that_takes_over_a_state_is_waited_for() -> None:
    found = forecast(replace(PACE, transfer=7.0), [Kill(25, 1, 15)], syncs=10)
    assert found.slowdown == pytest.approx(1.07)


def test_beside_inner_steps_an_exchange_costs_nothing() -> None:
    """It is sent 2 s before the window ends, and takes 2 s; a worker that is killed after it is in the sync."""
    pace = replace(PACE, delay=2, exchange=1.5)
    assert pace.alone == 10
    found = forecast(pace, [Kill(9.75, 1, 5)], syncs=10)
    assert found.next_sync == 0.25 and found.efficiency == pytest.approx(1 - 1 / 40)


def test_a_worker_that_is_lost_while_it_waits_is_tried_to_connect_with() -> None:
    """It is back at 25 s, and killed again at 29 s: at 30 s, the others still believe that it lives."""
    found = forecast(PACE, [Kill(12, 1, 13), Kill(29, 1, 13)], syncs=10)
    assert found.longest == PACE.exchange_timeout and found.kills == 2


@pytest.mark.parametrize(("checkpoint", "repeated"), [(1, 0), (2, 0), (3, 20), (0, 20)])
def test_a_run_that_nobody_holds_returns_to_its_checkpoint(checkpoint: int, repeated: int) -> None:
    """It is lost at 25 s and back at 40 s; two syncs were done."""
    found = forecast(replace(PACE, workers=1, checkpoint=checkpoint), [Kill(25, 0, 15)], syncs=10)
    assert found.efficiency == 1 and found.slowdown == pytest.approx((100 + 20 + repeated) / 100)


def test_more_faults_leave_less() -> None:
    found = [forecast(PACE, poisson(4, rate, away=15, seed=1), syncs=1000) for rate in (0, 1, 10, 40)]
    assert [each.throughput for each in found] == sorted((each.throughput for each in found), reverse=True)
    assert found[0].throughput == 1 and 0.6 < found[-1].throughput < 0.9


def test_faults_that_let_nothing_through_end_the_forecast() -> None:
    found = forecast(PACE, poisson(4, 3600, away=15, seed=1), syncs=1000)
    assert found.throughput == 0 and found.slowdown == math.inf


def test_kills_are_as_frequent_as_asked_for() -> None:
    kills = poisson(8, 2.0, away=1, seed=3)
    times = [next(kills).time for _ in range(4000)]
    assert times[-1] / 3600 == pytest.approx(4000 / 16, rel=0.05)
    assert list(poisson(8, 0.0, away=1, seed=3)) == []


def rows(text: str, first: str) -> dict[str, list[str]]:
    """The rows of the first table whose first column has that name, by its entries."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"┃ {first}"))
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("│"):
            break
        name, *cells = (cell.strip() for cell in line.strip("│").split("│"))
        found[name] = cells
    return found


def test_the_command_without_faults(capsys: pytest.CaptureFixture) -> None:
    assert main([*PLAN, "--faults", "0", "--gbit", "1"]) == 0
    said = capsys.readouterr().out
    assert rows(said, "Gbit/s ┃")["1"] == ["100.0", "100.0", "0.0", "0", "100.0"]
    table = rows(said, "K ")
    assert list(table) == [str(2**power) for power in range(1, 11)]
    assert all(cells == ["-", "100.0", "100.0"] for cells in table.values())


def test_the_command_with_faults(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Of a worker that is lost once in ten hours, the others of 1024 hear every 35 s."""
    picture = tmp_path / "speed.svg"
    assert main([*PLAN, "--faults", "0.1", "--gbit", "1", "--restart", "60", "--plot", str(picture)]) == 0
    said = capsys.readouterr().out
    assert "0.1 an hour of each worker: one every 10 h" in said and "is back after 60 s" in said
    table = rows(said, "K ")
    assert table["1024"][0] == "35.2 s" and table["2"][0] == "5 h"
    speeds = [float(cells[-1]) for cells in table.values()]
    assert speeds == sorted(speeds, reverse=True) and speeds[-1] < 99.5 < speeds[0]
    assert picture.exists()


@pytest.mark.parametrize("words", [["--fault_tolerance.group_size", "1"], ["config/laptop/muon.py"]])
def test_a_single_worker_returns_to_its_checkpoint(words: list[str], capsys: pytest.CaptureFixture) -> None:
    file, options = (words[0], []) if words[0].endswith(".py") else (PLAN[1], words)
    assert main(["plan", file, *options, "--faults", "1", "--gbit", "1"]) == 0
    useful, _, _, _, speed = map(float, rows(capsys.readouterr().out, "Gbit/s ┃")["1"])
    assert useful == 100 and speed < 100


def test_runs_of_a_sweep_are_a_row_each(capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", "jobs/muloco_paper/ddp_baselines_h100.py", "--faults", "0.01", "--gbit", "400"]) == 0
    assert "with 0.01 faults an hour of each worker" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--faults", "-1"], "--faults must be 0 or more; got -1; try `muloco plan --help`"),
        (["--faults", "often"], None),
        (["--faults", "1", "--restart", "0"], None),
        (["--restart", "30"], "--restart is for --faults PER_HOUR, which is not given"),
        (
            ["--faults", "1", "--fault_tolerance.transport", "in_process"],
            "--faults is for workers that fail one by one; those of muloco share a process "
            "(fault_tolerance.transport in_process)",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(
    words: list[str], message: str | None, capsys: pytest.CaptureFixture
) -> None:
    assert main([*PLAN, *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("muloco: --") and said.count("\n") == 1
    assert message is None or said == f"muloco: {message}\n"
