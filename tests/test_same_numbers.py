"""The proof of a refactoring: what counts as the same numbers, on recorded files, and bad input."""

import copy
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
SETTINGS = {"first": {"training.steps": 2}, "then": None, "forgets": False}
STEPS = {
    "0": {"validation_loss": 8.25},
    "1": {"loss": 8.0},
    "2": {"loss": 7.5, "digest of fragment 0": "aa", "digest of fragment 1": "bb", "validation_loss": 7.25},
}
RECORD = {
    "machine": {"cpu": "a chip", "torch": "1.0"},
    "commit": "0123",
    "runs": {
        "plain": {"numbers": {"0": STEPS, "1": STEPS, "10": STEPS}, "settings": SETTINGS, "seconds": 1.0},
        "other": {"numbers": {"0": STEPS}, "settings": SETTINGS, "seconds": 2.0},
    },
}
MISSING = object()


@pytest.fixture
def same_numbers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("same_numbers")


Called = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def called(same_numbers, capsys: pytest.CaptureFixture[str]) -> Called:
    """Gives the command these words; returns status, lines and error."""

    def call(*words: str) -> tuple[int, list[str], str]:
        status = same_numbers.main(words)
        output, error = capsys.readouterr()
        return status, output.splitlines(), error

    return call


@pytest.fixture
def compared(called: Called, tmp_path: Path) -> Called:
    """The same of a comparison of `RECORD` with another one."""

    def compare(after: dict, *words: str) -> tuple[int, list[str], str]:
        for name, held in (("before", RECORD), ("after", after)):
            (tmp_path / f"{name}.json").write_text(json.dumps(held))
        return called(str(tmp_path / "before.json"), str(tmp_path / "after.json"), *words)

    return compare


def changed(*changes: tuple[str, str, str, object]) -> dict:
    """`RECORD` with other values of the run `plain`, by worker, step and key."""
    record = json.loads(json.dumps(RECORD))  # in which no two workers share values
    for worker, step, key, value in changes:
        values = record["runs"]["plain"]["numbers"][worker][step]
        if value is MISSING:
            del values[key]
        else:
            values[key] = value
    return record


def test_the_same_numbers(compared: Called) -> None:
    status, lines, _ = compared(RECORD)
    assert status == 0
    assert lines[:2] == ["plain: 2 syncs, same", "other: 2 syncs, same"]
    assert lines[-2].split() == ["other", "1", "2", "2", "2", "same"]
    assert lines[-1] == "2 of 2 runs have the same numbers"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([("1", "2", "digest of fragment 1", "bc")], 'worker 1, step 2, digest of fragment 1: "bb" before, "bc" after'),
        ([("0", "2", "digest of fragment 0", MISSING)], 'digest of fragment 0: "aa" before, missing after'),
        ([("0", "2", "digest of fragment 2", "cc")], 'digest of fragment 2: missing before, "cc" after'),
        ([("0", "2", "validation_loss", 7.250000000000001)], "validation_loss: 7.25 before, 7.250000000000001 after"),
        (  # what came first in training, on the worker with the lowest number
            [("10", "2", "loss", 7.0), ("1", "2", "loss", 7.0), ("0", "2", "digest of fragment 0", "ab")],
            "worker 1, step 2, loss: 7.5 before, 7.0 after",
        ),
        (
            [("0", "2", "digest of fragment 0", "ab"), ("10", "1", "loss", float("nan"))],
            "worker 10, step 1, loss: 8.0 before, NaN after",
        ),
    ],
)
def test_the_first_difference_is_told(compared: Called, changes: list, told: str) -> None:
    status, lines, _ = compared(changed(*changes))
    assert status == 1
    assert lines[0].partition(", ")[2].startswith("differs at worker") and lines[0].endswith(told)
    assert lines[1] == "other: 2 syncs, same"
    assert lines[-1] == "1 of 2 runs have the same numbers"


def test_a_worker_that_is_missing_differs(compared: Called) -> None:
    after = copy.deepcopy(RECORD)
    del after["runs"]["plain"]["numbers"]["10"]
    status, lines, _ = compared(after)
    assert status == 1 and lines[0].endswith("worker 10, step 0, validation_loss: 8.25 before, missing after")


def test_a_run_that_is_missing_or_was_another_one_differs(compared: Called) -> None:
    after = copy.deepcopy(RECORD)
    del after["runs"]["other"]
    after["runs"]["plain"]["settings"] = {**SETTINGS, "first": {"training.steps": 3}}
    status, lines, _ = compared(after)
    assert status == 1 and lines[-1] == "0 of 2 runs have the same numbers"
    assert lines[:2] == [
        "plain: 2 syncs, the record is of a run with other settings; record it again",
        "other: 2 syncs, AFTER has no such run",
    ]
    assert compared(after, "--only", "other")[0] == 1


def test_another_machine_is_named(compared: Called) -> None:
    status, lines, _ = compared({**RECORD, "machine": {"cpu": "another chip"}})
    assert status == 0 and "another machine" in lines[0] and "another chip" in lines[0]


def test_of_repeated_steps_the_last_line_counts(same_numbers, tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "summary.json").write_text(json.dumps({"restarts": 0}))
    lines = [
        {"step": 1, "worker": 0, "event": "state", "state": "training"},
        {"step": 1, "worker": 0, "loss": 8.0, "lr": 0.1},
        {"step": 2, "worker": 0, "loss": 7.0, "lr": 0.1},
        {"step": 2, "worker": 0, "event": "sync", "fragment": 1, "digest": "aa", "participants": 1},
        {"step": 1, "worker": 0, "event": "resume"},
        {"step": 2, "worker": 0, "loss": 7.5, "lr": 0.1},
        {"step": 2, "worker": 0, "validation_loss": 6.0},
    ]
    (tmp_path / "metrics" / "worker-000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = same_numbers.read_numbers(tmp_path)
    assert found == {
        "0": {
            "1": {"loss": 8.0, "resumed": True},
            "2": {"loss": 7.5, "digest of fragment 1": "aa", "validation_loss": 6.0},
        }
    }


@pytest.mark.parametrize(("restarts", "participants"), [(1, 2), (0, 1)])
def test_a_run_that_lost_a_worker_proves_nothing(
    same_numbers, tmp_path: Path, restarts: int, participants: int
) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "summary.json").write_text(json.dumps({"restarts": restarts}))
    for worker in (0, 1):
        line = {"step": 2, "worker": worker, "event": "sync", "fragment": 0, "digest": "aa"}
        line["participants"] = participants
        (tmp_path / "metrics" / f"worker-{worker:03d}.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(same_numbers.RunFailed, match="a worker was lost or late"):
        same_numbers.read_numbers(tmp_path)


def test_a_command_that_fails_is_quoted(same_numbers, tmp_path: Path) -> None:
    """Such as that of a commit which knows no such command, or no such field."""
    (tmp_path / "muloco").mkdir()
    (tmp_path / "muloco" / "__main__.py").write_text("import sys\nsys.exit('muloco: there is no field model.flavor')")
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    result = same_numbers.Code(tmp_path, outputs).result("muloco")
    assert same_numbers.verdict(result, result) == "BEFORE failed: status 1: muloco: there is no field model.flavor"


def test_a_record_is_completed_by_runs_of_the_same_commit(same_numbers, tmp_path: Path) -> None:
    path, said = tmp_path / "record.json", []

    def record(commit: str, *names: str) -> int:
        return same_numbers.record(Fake(), commit, names, path, jobs=1, say=said.append)

    class Fake:
        machine = RECORD["machine"]

        def result(self, name: str):
            failure = "status 2: no" if name == "other" else None
            return same_numbers.Result({"0": STEPS}, SETTINGS, 1.0, failure)

        def stop(self) -> None: ...

    assert record("0123", "plain") == 0
    assert record("0123", "other", "third") == 1
    assert said[-1] == "1 runs failed and are not recorded"
    held = same_numbers.Record(path)
    assert held.names() == ["plain", "third"] and held.result("plain") == Fake().result("plain")
    with pytest.raises(same_numbers.BadInput, match="record of commit 0123"):
        record("4567", "plain")
    assert same_numbers.Record(path).names() == ["plain", "third"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no-such-commit"], "no-such-commit is neither a commit that git knows, nor the file of a record"),
        (["{record}", "--only", "no-such-run"], "there is no run no-such-run; there are plain, other"),
        (["{record}", "--jobs", "0"], "--jobs must be 1 or more; got 0"),
        (["{record}", "--keep", "{folder}"], "--keep needs a folder that does not exist yet"),
        (["{record}", "--record", "{folder}/new.json"], "--record takes one commit alone"),
        (["{damaged}"], "damaged.json is no record"),
    ],
)
def test_bad_input(called: Called, tmp_path: Path, words: list[str], told: str) -> None:
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    (tmp_path / "damaged.json").write_text("[]")
    places = {name: str(tmp_path / f"{name}.json") for name in ("record", "damaged")}
    words = [word.format(folder=tmp_path, **places) for word in (words[0], "{record}", *words[1:])]
    status, lines, error = called(*words)
    assert status == 2 and lines == [] and told in error
