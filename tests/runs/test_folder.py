"""Metrics files: what is written is read, also after a crash and a second attempt."""

import json
from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.runs.folder import (
    MetricsTail,
    MetricsWriter,
    RunFolder,
    read_json,
    read_metrics,
    write_json,
)
from muloco.runs.states import State, tell_state


def write(folder: RunFolder, worker: int, attempt: int, steps: range) -> None:
    writer = MetricsWriter(folder.metrics(worker), worker=worker, attempt=attempt)
    for step in steps:
        writer.write(step, {"loss": 10.0 * attempt + step})
    writer.close()


def test_the_last_attempt_of_a_step_counts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 0, 1, range(1, 6))
    write(folder, 1, 1, range(1, 4))
    write(folder, 0, 2, range(3, 8))
    losses = {(line["worker"], line["step"]): line["loss"] for line in read_metrics(folder)}
    first = {(0, 1): 11.0, (0, 2): 12.0, (1, 1): 11.0, (1, 2): 12.0, (1, 3): 13.0}
    assert losses == first | {(0, step): 20.0 + step for step in range(3, 8)}
    assert len(read_metrics(folder)) == len(losses)


def test_lines_carry_what_readers_rely_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 12, 3, range(5, 6))
    line = json.loads((tmp_path / "metrics" / "worker-012.jsonl").read_text())
    assert line["time"] > 1e9
    assert {k: line[k] for k in ("schema", "attempt", "step", "worker")} == {
        "schema": 1,
        "attempt": 3,
        "step": 5,
        "worker": 12,
    }


NO_LINES = [
    b'{"schema": 1, "att',
    b"\0" * 40,
    b'{"event": "sync", "step": \0\0\0',
    b"\xff\xfe",
    b"[1, 2]",
    b"7",
    b'{"step": 3}',
    b'{"attempt": 1, "worker": 0, "step": "3"}',
    b'{"attempt": 1, "worker": 0, "step": true}',
    b'{"attempt": 1, "worker": 0, "step": 3, "loss": "low"}',
    b'{"attempt": 1, "worker": 0, "step": 3, "loss": 1%s}' % (b"0" * 400),
    b'{"attempt": 1, "worker": 0, "step": 3, "validation_loss": null}',
    b'{"attempt": 1, "worker": 0, "step": 3, "event": []}',
    b'{"attempt": 1, "worker": 0, "step": 3, "event": "sync", "weights": [1]}',
    b'{"attempt": 1, "worker": 0, "step": 3, "evaluation/mean": {}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("damage", NO_LINES)
def test_what_is_no_line_of_metrics_is_left_out_and_told_once(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 0, 1, range(1, 3))
    tail = MetricsTail(folder, 1)
    with folder.metrics(0).open("ab") as file:
        file.write(damage)
    assert [line["step"] for line in read_metrics(folder)] == [1, 2]
    assert not caplog.records, "it may be a line that is being written"
    with folder.metrics(0).open("ab") as file:
        file.write(b"\n")
    write(folder, 0, 1, range(3, 5))
    assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3, 4]
    assert [line["step"] for line in tail.new_lines()] == [3, 4]
    (said,) = caplog.messages
    assert said.startswith(f"{folder.metrics(0)}, line 3: ")


def test_a_file_that_cannot_be_read_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Root may read any file; a folder in its place is one that nobody can read."""
    folder = RunFolder(tmp_path)
    write(folder, 0, 1, range(1, 3))
    tail = MetricsTail(folder, 2)
    folder.metrics(1).mkdir()
    (folder.metrics(1) / "so that it has a size").write_text("x" * 9000)
    write(folder, 0, 1, range(3, 4))
    for _ in range(3):
        assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3]
    assert [line["step"] for line in tail.new_lines()] == [3] and list(tail.new_lines()) == []
    assert sum("Is a directory" in message for message in caplog.messages) == 2, "the reader and the tail say it once"


def test_the_tail_takes_what_its_view_can_show(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    tail = MetricsTail(folder, 2)
    write(folder, 0, 1, range(1, 2))
    with folder.metrics(0).open("a") as file:
        file.write('{"attempt": 1, "worker": 7, "step": 2, "loss": 1.0}\n')
        file.write('{"attempt": 1, "worker": 0, "step": 2, "event": "sync"}\n')
        file.write('{"attempt": 1, "worker": 0, "step": 2, "event": "state"}\n')
    assert [line["step"] for line in tail.new_lines()] == [1]


def test_a_metrics_file_full_of_garbage_is_read_in_pieces(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    tail = MetricsTail(folder, 1)
    folder.metrics(0).parent.mkdir(parents=True)
    folder.metrics(0).write_bytes(b"\0" * (3 << 20) + b"\n")
    write(folder, 0, 1, range(1, 2))
    found = [line["step"] for _ in range(5) for line in tail.new_lines()]
    assert found == [1]


@pytest.mark.parametrize("what", [b"", b"{", b"\xff", b"[]", b"null"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, what: bytes) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(what)
    with pytest.raises(ValueError, match=str(path)) as refusal:
        read_json(path)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="absent.json"):
        read_json(tmp_path / "absent.json")


@pytest.mark.parametrize("name", [None, "", ".", "..", "a/b", "/a", "../a", "a\0"])
def test_a_run_has_a_folder_of_its_own(name: str | None) -> None:
    with pytest.raises(UserError, match="run.name"):
        RunFolder.of("outputs", name)
    assert RunFolder.of("outputs", "a").root == Path("outputs/a")


def test_what_was_written_of_lost_steps_is_void(tmp_path: Path) -> None:
    """The second attempt logs at other steps than the first, and does not come as far; the third makes up for the
    validation of the step that it begins with."""
    folder = RunFolder(tmp_path)
    write(folder, 0, 1, range(2, 20, 2))
    for attempt, step, values in (
        (2, 0, {"event": "fault"}),
        (2, 10, {"event": "resume"}),
        (2, 13, {"loss": 2.0}),
        (2, 14, {"event": "sync"}),
        (3, 13, {"event": "resume"}),
        (3, 13, {"validation_loss": 3.0}),
    ):
        writer = MetricsWriter(folder.metrics(0), worker=0, attempt=attempt)
        writer.write(step, values)
        writer.close()
    found = [(line["attempt"], line["step"]) for line in read_metrics(folder)]
    assert found == [(1, step) for step in (2, 4, 6, 8, 10)] + [(2, 0), (2, 10), (2, 13), (3, 13), (3, 13)]


def test_the_tail_gives_whole_new_lines_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 0, 1, range(1, 3))
    tail = MetricsTail(folder, 2)
    assert list(tail.new_lines()) == [], "an earlier attempt is not shown again"
    write(folder, 0, 2, range(2, 4))
    write(folder, 1, 2, range(2, 3))
    assert [(line["worker"], line["step"]) for line in tail.new_lines()] == [(0, 2), (0, 3), (1, 2)]
    with folder.metrics(1).open("a") as file:
        file.write('{"worker": 1, "attempt": 2, ')
        file.flush()
        assert list(tail.new_lines()) == []
        file.write('"step": 9}\n')
    assert list(tail.new_lines()) == [{"worker": 1, "attempt": 2, "step": 9}]


def test_json_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "summary.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert [p.name for p in path.parent.iterdir()] == ["summary.json"]


def test_a_torn_last_line_is_dropped_before_more_is_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 0, 1, range(1, 3))
    with folder.metrics(0).open("a") as file:
        file.write('{"attempt": 1, "st')
    write(folder, 0, 1, range(3, 5))
    assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3, 4]


def test_states_are_for_those_who_watch_and_hide_no_earlier_line(tmp_path: Path) -> None:
    """A run that is taken up again tells its state at step 0 before it knows where it goes on."""
    folder = RunFolder(tmp_path)
    write(folder, 0, 1, range(3))
    before, tail = read_metrics(folder), MetricsTail(folder, 1)
    tell_state(folder, [0], attempt=2, state=State.PREPARING)
    assert read_metrics(folder) == before
    assert [(line["attempt"], line["state"]) for line in tail.new_lines()] == [(2, "preparing data")]


@pytest.mark.parametrize(
    "torn",
    [
        b'{"attempt": 1, "worker": 0, "step": 9}, {"a": 1}',
        b"[" * 100_000,
        b'{"attempt": 1, "worker": 0, "step": 9\n"a": 1}',
    ],
)
def test_lines_that_are_parsed_together_are_judged_each_by_itself(tmp_path: Path, torn: bytes) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 0, 1, range(1, 3))
    with folder.metrics(0).open("ab") as file:
        file.write(torn + b"\n")
    write(folder, 0, 1, range(3, 5))
    assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3, 4]


def test_metrics_that_cannot_be_read_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 0, 1, range(1, 3))
    folder.metrics(1).mkdir()
    tail = MetricsTail(folder, 2)
    write(folder, 0, 1, range(3, 4))
    assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3]
    assert [line["step"] for line in tail.new_lines()] == [3]
    assert str(folder.metrics(1)) in caplog.text


def test_the_tail_reads_a_file_that_is_made_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 0, 1, range(1, 9))
    tail = MetricsTail(folder, 1)
    folder.metrics(0).unlink()
    assert list(tail.new_lines()) == []
    write(folder, 0, 1, range(9, 11))
    assert [line["step"] for line in tail.new_lines()] == [9, 10]
