"""What a summary counts."""

from typing import Any

from muloco.launch.summary import lost_steps


def line(worker: int, step: int, event: str) -> dict[str, Any]:
    return {"worker": worker, "step": step, "event": event}


def test_lost_steps_are_those_that_no_sync_has_taken_in() -> None:
    """Worker 0 is always there. Worker 1 is lost behind step 10, takes up a checkpoint of step 20, joins at 30. Worker
    2 is lost behind step 20 for good."""
    lines = [line(0, step, "sync") for step in (10, 20, 30, 40)]
    lines += [line(1, 10, "sync"), line(1, 20, "join"), line(1, 30, "join"), line(1, 40, "sync")]
    lines += [line(2, 10, "sync"), line(2, 20, "sync"), {"worker": 2, "step": 25, "loss": 1.0}]
    assert lost_steps(lines, workers=3, steps=40) == 20 + 20


def test_nothing_is_lost_where_nobody_was() -> None:
    lines = [line(worker, step, "sync") for worker in (0, 1) for step in (5, 10, 12)]
    assert lost_steps(lines, workers=2, steps=12) == 0


def test_a_worker_that_never_came_has_lost_all() -> None:
    assert lost_steps([line(0, 10, "sync")], workers=2, steps=10) == 10
