"""What benchmarks/storm.py reads from a run folder, against figures worked out by hand."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from muloco.failpoints import FAILPOINTS
from muloco.runs.folder import RunFolder
from muloco.settings.load import CHECKOUT


@pytest.fixture
def storm_judge(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("storm_judge")


def write(root: Path, lines: list[dict[str, Any]]) -> RunFolder:
    folder = RunFolder(root)
    for line in lines:
        path = folder.metrics(line["worker"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps({"schema": 1, "attempt": 1, **line}) + "\n")
    return folder


def sync(time: float, worker: int, step: int, digest: str = "a") -> dict[str, Any]:
    values = {"event": "sync", "fragment": 0, "participants": 2 if step in (4, 16, 20) else 1}
    return {"time": time, "worker": worker, "step": step, **values, "digest": f"{digest}{step}"}


def fault(time: float, worker: int, step: int, kind: str, phase: str) -> dict[str, Any]:
    return {"time": time, "worker": worker, "step": step, "event": "fault", "kind": kind, "phase": phase}


LINES = [
    *(sync(10.0, 0, 4), sync(10.1, 1, 4)),
    fault(11.0, 1, 5, "kill", "commit"),
    *(sync(13.5, 0, 8), sync(15.0, 0, 12)),
    {"time": 14.0, "worker": 1, "step": 0, "event": "state", "state": "meeting the others"},
    {"time": 16.0, "worker": 1, "step": 12, "event": "join"},
    *(sync(17.0, 0, 16), sync(17.2, 1, 16)),
    fault(17.5, 0, 17, "cut", "vote"),
    *(sync(19.0, 0, 20), sync(19.0, 1, 20)),
    fault(20.0, 0, 21, "kill", "commit"),
    sync(24.0, 1, 24),
]


def test_figures_of_a_run(storm_judge: ModuleType, tmp_path: Path) -> None:
    figures = storm_judge.judge(write(tmp_path, LINES), workers=2, steps=24)
    assert figures.faults == {("commit", "kill"): 2, ("vote", "cut"): 1}
    assert (figures.syncs, figures.digests, figures.mismatches, figures.joins) == (6, 9, [], 1)
    assert figures.commits == [2.5, 4.0]
    assert figures.recoveries == [pytest.approx(6.2)], "worker 0 does not come back"
    assert figures.lost == (12 - 4) + (24 - 20)
    assert figures.efficiency == pytest.approx(1 - 12 / 48)
    assert (figures.participants, figures.living) == (2 + 1 + 1 + 2 + 2 + 1, 2 + 1 + 2 + 2 + 2 + 1)


def test_an_anchor_that_differs_is_seen(storm_judge: ModuleType, tmp_path: Path) -> None:
    figures = storm_judge.judge(write(tmp_path, [*LINES, sync(24.5, 0, 24, "b")]), workers=2, steps=24)
    assert len(figures.mismatches) == 1 and figures.mismatches[0].startswith("step 24, fragment 0")


def test_what_was_not_struck_is_missing(storm_judge: ModuleType, tmp_path: Path) -> None:
    figures = storm_judge.Figures()
    one = storm_judge.judge(write(tmp_path, LINES), workers=2, steps=24)
    for _ in range(3):
        figures.add(one)
    unstruck = ", ".join(f"{phase} (0)" for phase in FAILPOINTS if phase not in ("vote", "commit"))
    assert figures.missing(per_phase=1, total=9) == [f"struck fewer than 1 times: {unstruck}"]
    assert figures.missing(per_phase=0, total=10) == ["9 faults instead of 10"]
    assert figures.missing(per_phase=0, total=9) == []
    unseen = figures.missing(per_phase=0, total=9, kinds=["kill", "cut"])[0]
    assert "cut in commit" in unseen and "kill in commit" not in unseen and "kill in vote" in unseen
    assert "vote (3)" in figures.missing(per_phase=4, total=0)[0]
    assert "commit" not in figures.missing(per_phase=4, total=0)[0]


@pytest.mark.parametrize("result", sorted((CHECKOUT / "results" / "storm").glob("*.json")), ids=lambda path: path.stem)
def test_the_committed_storms_were_weathered(storm_judge: ModuleType, result: Path) -> None:
    found = json.loads(result.read_text())
    assert found["mismatches"] == [] and found["within_band"]
    assert found["seconds_to_next_commit"]["median"] <= storm_judge.COMMIT_SECONDS


def loss(time: float, worker: int, step: int) -> dict[str, Any]:
    return {"time": time, "worker": worker, "step": step, "loss": 1.0}


def test_costs_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two inner steps of 0.5 s, one with a sync for which it waits 3 of 4 s, and 9 s from a kill to its return."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    module = importlib.import_module("storm_costs")
    lines = [
        *(loss(10.0, 0, 1), loss(10.5, 0, 2), loss(11.0, 0, 3)),
        {**sync(14.8, 0, 3), "seconds_waited": 3.0, "seconds_hidden": 0.25},
        *(loss(15.0, 0, 4), fault(16.0, 0, 5, "kill", "commit")),
        {"time": 25.0, "worker": 0, "step": 0, "event": "state", "state": "meeting the others"},
    ]
    found = {name: spread.get("median") for name, spread in module.costs([lines]).items()}
    expected = {"inner_step": 0.5, "step_with_sync": 1.0, "round": 3.25, "away": 9.0}
    assert found == {f"{name}_seconds": seconds for name, seconds in expected.items()}
    assert module.struck(lines, 10.0) == ["6.0 s: worker 0, kill in commit"]
