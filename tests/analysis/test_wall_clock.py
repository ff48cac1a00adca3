"""The time model: the paper's figures, worked-out cases, and what was measured on a shaped link."""

import json

import pytest

from muloco.analysis import published, wall_clock
from muloco.model.flavors import flavor
from muloco.settings.load import CHECKOUT

N = flavor("15B").parameters
COMPUTE = 0.973
"""Seconds of a step at 15B, fitted to the figure."""


@pytest.mark.parametrize("method", published.WALL_CLOCK)
@pytest.mark.parametrize("gbit", [10, 6400])
def test_the_papers_hours(method: str, gbit: int) -> None:
    """16 bits a parameter, at every step where there is one worker, else every 30; the figure is read to some 3 %."""
    interval = 30 if method.endswith("K=16") else 1
    time = wall_clock(
        steps=published.WALL_CLOCK_STEPS[method],
        compute_seconds=COMPUTE,
        exchange_bytes=2 * N,
        gbit_per_second=gbit,
        sync_steps=interval,
    )
    assert time.total / 3600 == pytest.approx(published.WALL_CLOCK[method][gbit], rel=0.03)


def test_by_hand() -> None:
    """1 s of compute a step; 8 Gbit in 4 fragments over 1 Gbit/s: 2 s each, every 10 steps."""
    common = {"steps": 100, "compute_seconds": 1.0, "exchange_bytes": 1e9, "gbit_per_second": 1.0}
    every_step = wall_clock(**common)
    assert (every_step.compute, every_step.communication, every_step.hidden) == (100, 800, 0)
    blocking = wall_clock(**common, sync_steps=10, fragments=4)
    assert (blocking.communication, blocking.hidden, blocking.total) == (80, 0, 180)
    overlapped = wall_clock(**common, sync_steps=10, fragments=4, delay=1)
    assert (overlapped.communication, overlapped.hidden) == (40, 40)
    hidden = wall_clock(**common, sync_steps=10, fragments=4, delay=3)
    assert (hidden.communication, hidden.hidden, hidden.utilization) == (0, 80, 1.0)


@pytest.mark.parametrize("variant", ["tau = 0", "tau = 3", "tau = 3, J = 3"])
def test_measured_beside_modelled(variant: str) -> None:
    """The runs of `benchmarks/overhead.py link`: the wait of a sync follows from bytes, rate and step time, but for
    what the outer step itself takes."""
    result = json.loads((CHECKOUT / "results" / "overhead" / "link.json").read_text())
    runs = result["runs"][variant]
    step = sum(run["step_seconds"] for run in runs) / len(runs)
    waited = sum(run["waited"] for run in runs) / len(runs)
    fragments = 3 if "J = 3" in variant else 1
    syncs = 3 * fragments  # so many that the number does not matter
    model = wall_clock(
        steps=3 * result["sync_steps"],
        compute_seconds=step,
        exchange_bytes=runs[0]["bytes_a_sync"] * fragments,
        gbit_per_second=result["measured_megabits"] / 1000,
        sync_steps=result["sync_steps"],
        fragments=fragments,
        delay=3 if "tau = 3" in variant else 0,
    )
    assert waited == pytest.approx(model.communication / syncs, abs=0.25)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be above 0; got 0"),
        ({"gbit_per_second": -1.0}, "gbit_per_second must be above 0"),
        ({"delay": -1}, "exchange_bytes and delay must be 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict, message: str) -> None:
    given = {"steps": 1, "compute_seconds": 1.0, "exchange_bytes": 1.0, "gbit_per_second": 1.0}
    with pytest.raises(ValueError, match=message):
        wall_clock(**{**given, **wrong})
