"""Storms in simulated time: as measured, and as `muloco plan --faults` says."""

import pytest

from muloco.settings.fault_tolerance import Chaos
from muloco.training.chaos import FaultSchedule
from tests.simulation import calibrate
from tests.simulation.calibrate import kill_at_random, repeat, result, shaped_link
from tests.simulation.costs import Costs
from tests.simulation.storm import weather
from tests.simulation.toy import Shape

POINTS = 0.05
"""How far figures may lie apart."""
FIGURES = "step_efficiency", "share_of_the_living", "slowdown"
MANY = 64
"""With so many workers, to connect a new group takes a considerable part of a simulated window, which the model leaves
out of the duration."""
CALIBRATION = result("simulation/calibration.json")


def test_the_faults_are_those_of_the_schedule() -> None:
    """Ten seconds each: a worker is struck at most once in a slot, as the schedule says, or twice if it is to join."""
    shape = Shape(workers=3, interval=4, fragments=2, delay=1, rounds=15, save_every=2, costs=Costs())
    schedule = FaultSchedule(Chaos(interval_seconds=10.0, stop_seconds=5.0), workers=3)
    one, other = (weather(shape, schedule, seed=5, begins=1e9, away_seconds=(2.0, 4.0)).lines for _ in range(2))
    assert one == other
    faults = [line for line in one if line["event"] == "fault"]
    assert {line["kind"] for line in faults} == {"kill", "stop", "cut"}
    for line in faults:
        slots = schedule.slot(1e9 + line["time"]), schedule.slot(1e9 + line["time"]) - 1
        told = [schedule.fault(slot) for slot in slots]
        assert any(f.worker == line["worker"] and (line["kind"], line["phase"]) in f.strikes for f in told)


@pytest.mark.parametrize("workers", [2, 4, pytest.param(64, marks=pytest.mark.full)])
def test_the_model_says_what_the_engine_does(workers: int) -> None:
    many = workers == MANY
    found = kill_at_random(workers, 6.0 if many else 30.0, syncs=10 if many else 25, runs=1 if many else 4)
    assert found["faults"] > 10
    for figure in FIGURES[: 2 if many else 3]:
        assert found[figure]["planned"] == pytest.approx(found[figure]["simulated"], abs=POINTS), figure
    assert found["step_efficiency"]["simulated"] < 0.98


def test_a_measured_storm_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "FITS", 1)
    found, again = result("storm/brief.json"), repeat("brief", 2, 20.0).figures
    assert again.efficiency == pytest.approx(found["step_efficiency"], abs=POINTS)
    assert again.share == pytest.approx(found["share_of_the_living"], abs=POINTS)


def test_a_link_takes_as_long_as_its_bytes() -> None:
    found = shaped_link()
    assert found["simulated"] == pytest.approx(8 * found["bytes"] / found["megabits"] / 1e6, rel=0.03)


@pytest.mark.parametrize("storm", CALIBRATION["storms"])
def test_the_committed_storms_are_met(storm: str) -> None:
    found = CALIBRATION["storms"][storm]
    for figure in ("step_efficiency", "share_of_all", "share_of_the_living"):
        values = [value for value in found[figure].values() if value is not None]
        assert max(values) - min(values) <= POINTS, figure
    seconds = found["seconds_to_next_sync"]
    crowded = storm == "many"  # sixteen workers on two cores, where messages take longer
    assert seconds["simulated"] == pytest.approx(seconds["measured"], rel=(2 if crowded else 1) * POINTS)


@pytest.mark.parametrize("workers", CALIBRATION["random"])
def test_the_committed_runs_are_as_planned(workers: str) -> None:
    for figure in FIGURES[: 2 if int(workers) == MANY else 3]:
        values = CALIBRATION["random"][workers][figure]
        assert values["planned"] == pytest.approx(values["simulated"], abs=POINTS), figure
