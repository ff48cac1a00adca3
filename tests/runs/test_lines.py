"""What is written beside the training ends nothing where the disk is full, and says what is missing."""

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from muloco.runs.folder import MetricsWriter, RunFolder, read_metrics
from muloco.runs.lines import LineFile, why_full
from muloco.settings.config import Config
from muloco.training.trackers import LastingTracker, TensorBoard


def gap(lines: int, reason: str) -> str:
    return f"{lines} missing"


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond so many bytes: a write is cut there, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_lines_are_whole_or_counted_as_missing(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "folder" / "lines", gap=gap)
    file.append("one two")
    with full_at(13):
        for line in ("three", "four", "five", "6"):
            file.append(line)
    assert (tmp_path / "folder" / "lines").read_text() == "one two\n"
    file.append("seven")
    file.append("eight")
    file.close()
    assert (tmp_path / "folder" / "lines").read_text() == "one two\n4 missing\nseven\neight\n"


def test_a_full_disk_is_told_once_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    file = LineFile(tmp_path / "full", gap=gap)
    for _ in range(5):
        file.append("a line")
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}/full: No space left on device; lines that cannot be written are dropped"
    ]


def test_metrics_go_on_behind_a_gap(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    writer = MetricsWriter(folder.metrics(0), worker=0, attempt=1)
    writer.write(1, {"loss": 9.0})
    size = folder.metrics(0).stat().st_size
    with full_at(size + 20):
        for step in (2, 3, 4):
            writer.write(step, {"loss": 8.0})
    writer.write(5, {"loss": 7.0})
    writer.close()
    assert [(line["step"], line.get("loss"), line.get("lines")) for line in read_metrics(folder)] == [
        *((1, 9.0, None), (5, None, 3), (5, 7.0, None))
    ]
    assert json.loads(folder.metrics(0).read_text().splitlines()[1])["event"] == "lines_lost"


def test_a_full_disk_is_known(tmp_path: Path) -> None:
    assert why_full(tmp_path) is None
    with full_at(0):
        assert why_full(tmp_path) == "File too large"  # the limit's word for it
    assert why_full(tmp_path / "nowhere") == "No such file or directory"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("No space\nleft on device")])
def test_a_tracker_that_cannot_write_is_gone_on_without(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    class Full:
        def log(self, metrics: dict, step: int) -> None:
            raise error

        def close(self) -> None:
            raise error

    tracker = LastingTracker(Full())
    for step in range(3):
        tracker.log({"loss": 1.0}, step)
    tracker.close()
    assert len(caplog.records) == 1 and "No space left on device" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # its thread that writes
def test_tensorboard_goes_on_when_the_disk_has_room_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    tracker = LastingTracker(TensorBoard(tmp_path / "tb", Config()), lambda: now)
    tracker.log({"loss": 1.0}, 1)
    with full_at(10):
        for step in range(2, 202):  # more than its queue holds
            tracker.log({"loss": 1.0}, step)
    now += LastingTracker.PAUSE_SECONDS
    for step in range(202, 205):
        tracker.log({"loss": 1.0}, step)
    tracker.close()
    assert len(caplog.records) == 1
    steps = [event.step for event in EventAccumulator(str(tmp_path / "tb")).Reload().Scalars("loss")]
    assert steps[-3:] == [202, 203, 204] and len(steps) < 100
