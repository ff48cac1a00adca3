"""The conditions under which the supervisor resumes a run by itself, and the end of the run otherwise."""

from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from signal import SIGTERM, SIGUSR1, Signals

import pytest
from rich.console import Console

from muloco.cli import main
from muloco.launch import supervisor
from muloco.launch.attempt import Ended
from muloco.launch.lighthouse import LighthouseError
from muloco.launch.stop_signals import StopSignals
from muloco.runs.folder import MetricsWriter, RunFolder
from muloco.settings.config import Config

from ..run_on_disk import save_checkpoint
from ..training.test_resuming import start

STEPS = 100
KILLED = "killed by SIGKILL"


@dataclass
class FakeChild:
    why: str = KILLED
    status: int = -9
    name: str = "worker 0"
    log: str = "logs/worker-000.log"

    def reason(self) -> str:
        return self.why


@dataclass
class Fate:
    """The course of an attempt: the checkpoints that it leaves, and its end."""

    saves: tuple[int, ...] = ()
    failed: str | None = KILLED
    may_pass: bool = True
    ends: bool = False
    """Whether its workers reach the last step."""
    stops: bool = False


@dataclass
class Story:
    """Runs the attempts of a story in place of real ones."""

    folder: RunFolder
    fates: list[Fate]
    attempts: list[int] = field(default_factory=list)

    def run(self, config, folder, placement, number, stop, view) -> Ended:
        fate = self.fates[len(self.attempts)]
        self.attempts.append(number)
        writer = MetricsWriter(folder.metrics(0), worker=0, attempt=number)
        writer.write(1, {"loss": 9.0})
        for step in fate.saves:
            save_checkpoint(folder, step)
        if fate.ends:
            writer.write(STEPS, {"validation_loss": 4.0})
        writer.close()
        if fate.stops:
            stop.received = 15
        failed = [] if fate.failed is None else [FakeChild(fate.failed)]
        return Ended(failed=failed, may_pass=fate.may_pass, restarts=2)


@pytest.fixture
def told() -> StringIO:
    return StringIO()


def attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: StringIO, *fates: Fate, resumes: int = 2):
    """The story and what `_attempts` made of it."""
    config = Config()
    config.training.steps, config.fault_tolerance.resumes = STEPS, resumes
    story = Story(RunFolder(tmp_path), list(fates))
    monkeypatch.setattr(supervisor, "run_attempt", story.run)
    console = Console(file=told, soft_wrap=True)
    ended, resumes = supervisor._attempts(config, story.folder, None, 1, StopSignals(), None, console)
    return story, ended, resumes


def test_a_run_is_resumed_from_its_newest_checkpoint_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: StringIO
) -> None:
    ends = Fate(saves=(STEPS,), failed=None, ends=True)
    story, ended, resumes = attempts(tmp_path, monkeypatch, told, Fate(saves=(30, 60)), ends)
    assert story.attempts == [1, 2] and not ended.failed
    assert (resumes, ended.restarts) == (1, 4)
    assert f"worker 0 failed: {KILLED}" in told.getvalue()
    assert "the run is resumed from the checkpoint of step 60 (attempt 2; resume 1 of 2" in told.getvalue()


def test_resumes_are_bounded_until_there_is_a_newer_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: StringIO
) -> None:
    fates = [Fate(saves=(30,)), Fate(), Fate(saves=(60,)), Fate(), Fate(), Fate()]
    story, ended, resumes = attempts(tmp_path, monkeypatch, told, *fates)
    assert story.attempts == [1, 2, 3, 4, 5] and ended.failed and resumes == 4


@pytest.mark.parametrize(
    "fate",
    [
        Fate(saves=(30,), failed="NonFiniteGradient: NaN", may_pass=False),
        Fate(),  # a run does not start from the beginning by accident
        Fate(saves=(30,), stops=True),
        Fate(saves=(30,), failed=None),  # a worker was asked to stop
        Fate(saves=(30, STEPS), failed=None, ends=True),
    ],
)
def test_what_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: StringIO, fate: Fate) -> None:
    story, ended, resumes = attempts(tmp_path, monkeypatch, told, fate)
    assert story.attempts == [1] and resumes == 0 and not told.getvalue()


def test_a_run_whose_checkpoints_are_all_damaged_ends_with_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: StringIO
) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_text("{}")
    run = Story.run

    def damaging(*args) -> Ended:
        ended = run(*args)
        (folder.checkpoint / "step-30" / "global" / ".metadata").write_text("more")
        return ended

    monkeypatch.setattr(Story, "run", damaging)
    story, ended, resumes = attempts(tmp_path, monkeypatch, told, Fate(saves=(30,)))
    assert story.attempts == [1] and resumes == 0
    console = Console(file=told, soft_wrap=True)
    assert supervisor._failed(ended, folder, StopSignals(), console) == 1
    assert f"worker 0 failed: {KILLED}" in told.getvalue() and "no checkpoint can be used" in told.getvalue()


def test_an_incomplete_last_checkpoint_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: StringIO
) -> None:
    late = Fate(saves=(30,), failed=None, ends=True)
    ends = Fate(saves=(STEPS,), failed=None, ends=True)
    story, ended, resumes = attempts(tmp_path, monkeypatch, told, late, ends)
    assert story.attempts == [1, 2] and resumes == 1
    assert "the checkpoint of the last step is incomplete" in told.getvalue()


@pytest.mark.parametrize(
    ("saved", "may_pass", "signal", "status", "said"),
    [
        (30, True, None, 75, "the checkpoint of step 30 is kept; resume with: muloco train"),
        (30, True, SIGUSR1, 75, "the checkpoint of step 30 is kept; resume with: muloco train"),
        (30, True, SIGTERM, 1, "the checkpoint of step 30 is kept; resume with: muloco train"),
        (None, True, None, 1, "nothing was saved; this starts it again from the beginning: muloco train"),
        (30, False, None, 3, None),
    ],
)
def test_the_end_says_what_there_is_and_whether_it_can_be_resumed(
    tmp_path: Path,
    told: StringIO,
    saved: int | None,
    may_pass: bool,
    signal: Signals | None,
    status: int,
    said: str | None,
) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_text("{}")
    if saved is not None:
        save_checkpoint(folder, saved)
    ended = Ended(failed=[FakeChild("StateLost: gone")], may_pass=may_pass, restarts=0)
    stop = StopSignals()
    stop.received = signal
    assert supervisor._failed(ended, folder, stop, Console(file=told, soft_wrap=True)) == status
    assert "worker 0 failed: StateLost: gone" in told.getvalue()
    assert said in told.getvalue() if said else "resume" not in told.getvalue()


@pytest.mark.parametrize("statuses", [(1, 2), (2, 3), (2,)])
def test_a_mistake_of_the_user_is_told_from_other_failures(
    tmp_path: Path, told: StringIO, statuses: tuple[int, ...]
) -> None:
    ended = Ended(failed=[FakeChild(status=status) for status in statuses], may_pass=False, restarts=0)
    assert supervisor._failed(ended, RunFolder(tmp_path), StopSignals(), Console(file=told)) == 2


@pytest.mark.parametrize(("saved", "status"), [(20, 75), (None, 1)])
def test_a_lighthouse_that_does_not_start_leaves_a_run_that_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, saved: int | None, status: int
) -> None:
    def attempt(*args) -> Ended:
        raise LighthouseError("the lighthouse did not start")

    monkeypatch.setattr(supervisor, "run_attempt", attempt)
    folder = start(tmp_path / "a", step=saved)
    assert main(["train", str(folder.config), "--resume"]) == status
    said = capfd.readouterr()
    assert "the lighthouse did not start" in said.out + said.err
    assert "the checkpoint of step 20 is kept" in " ".join(said.out.split()) if saved else True
