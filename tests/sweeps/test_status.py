"""Where the jobs of a sweep stand, with SLURM and without."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from muloco.cli import main
from muloco.resolve import resolve
from muloco.runs.folder import MetricsWriter, RunFolder, write_json
from muloco.runs.states import State, tell_state
from muloco.settings.load import load_config
from muloco.settings.stored import to_dict
from muloco.sweeps.state import progress

from .fake_slurm import FakeSlurm

Muloco = Callable[..., tuple[int, str]]
SweepFile = Callable[[int], Path]


def test_every_state_with_the_last_loss(fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path) -> None:
    file = sweep_file(5)
    names = [f"tiny_lr{lr}" for lr in (0.01, 0.02, 0.03, 0.04, 0.05)]
    fake.before_sbatch = lambda: (_ for _ in ()).throw(KeyboardInterrupt) if len(fake.jobs) == 4 else None
    muloco("sweep", file, "--submit")
    write_json(RunFolder(tmp_path / "runs" / names[0]).summary, {})
    fake.end(names[0])
    fake.jobs[1].state = "RUNNING"
    for worker, loss in ((0, 3.0), (1, 4.0)):
        writer = MetricsWriter(RunFolder(tmp_path / "runs" / names[1]).metrics(worker), worker=worker, attempt=1)
        writer.write(5, {"loss": loss + 1, "validation_loss": 6.5})
        writer.write(10, {"loss": loss})
    fake.end(names[2], "OUT_OF_MEMORY", 1)
    status, said = muloco("sweep", file, "status")
    assert status == 0
    for row in (
        f"│ {names[0]} │ done │ 1 │",
        f"│ {names[1]} │ running │ 2 │ 10/180 │ 3.5000 │ 6.5000 │",
        f"│ {names[2]} │ failed │ 3 │",
        f"│ {names[3]} │ queued │ 4 │",
        f"│ {names[4]} │ not submitted │",
        "1 not submitted, 1 queued, 1 running, 1 done, 1 failed",
    ):
        assert row in said
    assert "OUT_OF_MEMORY, exit status 1" in said


def test_without_slurm_it_says_what_the_run_folders_know(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sweep_file(3)
    muloco("sweep", file, "--submit")
    write_json(RunFolder(tmp_path / "runs" / "tiny_lr0.01").summary, {})
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    status, said = muloco("sweep", file, "status")
    assert status == 0 and "SLURM does not answer (there is no squeue on this machine); the states are" in said
    assert "1 done, 2 unknown" in said


def test_what_slurm_says_is_a_detail(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'squeue: fatal: debris' >&2\nexit 1\n")
    squeue.chmod(0o755)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = "SLURM does not answer (squeue failed); the states are from the run folders"
    for words, debris in (((), False), (("-v",), True)):
        said = muloco("sweep", sweep_file(1), "status", *words)[1]
        assert told in said and ("debris" in said) == debris


@pytest.mark.parametrize("width", [70, 200])
def test_tables_obey_the_width_that_is_asked_for(
    fake: FakeSlurm,
    sweep_file: SweepFile,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    file = sweep_file(2)
    for words in ([], ["status"]):
        main(["sweep", str(file), *words])
        table = [line for line in capsys.readouterr().out.splitlines() if "tiny_" in line or line[:1] in "┏│└ "]
        assert table and max(map(len, table)) <= width


@pytest.mark.parametrize("words", [["sweep"], ["plan"], ["sweep", "status"], ["sweep", "--here"]])
def test_a_reason_that_many_jobs_share_is_said_once(
    fake: FakeSlurm, sweep_file: SweepFile, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main([words[0], str(sweep_file(33)), *words[1:], "--data.corpus", "FOLDER"]) == 1
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if "FOLDER" in line)
    assert line.startswith("refused: 33 jobs, the first is tiny_lr0.01: data.corpus: there is no file or folder ")
    assert "┏" not in said


@pytest.mark.parametrize("way", ["--submit", "--here", "status"])
@pytest.mark.parametrize(
    ("field", "there", "here"),
    [("optimizer.lr", "0.5", "0.01"), ("run.seed", "7", "42"), ("validation.sequences", "8", "32")],
)
def test_another_run_of_that_name_is_not_taken_for_the_job(
    way: str,
    field: str,
    there: str,
    here: str,
    fake: FakeSlurm,
    sweep_file: SweepFile,
    muloco: Muloco,
    tmp_path: Path,
) -> None:
    run = _finished(tmp_path / "runs" / "tiny", ["--optimizer.lr", "0.01", f"--{field}", there])
    before = run.config.read_bytes()
    status, said = muloco("sweep", sweep_file(1), way)
    note = " ".join(said.replace("│", " ").split())
    assert status == 1 and not fake.jobs and f"holds another run: {field} {there}, here {here}" in note
    assert run.config.read_bytes() == before


@pytest.mark.parametrize("way", ["--submit", "--here", "status"])
def test_how_often_a_run_writes_does_not_make_it_another_one(
    way: str, fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path
) -> None:
    words = ["--optimizer.lr", "0.01", "--metrics.log_freq", "3", "--checkpoint.interval", "7"]
    _finished(tmp_path / "runs" / "tiny", words)
    status, said = muloco("sweep", sweep_file(1), way)
    assert status == 0 and "done" in said and "another run" not in said


def _finished(root: Path, words: list[str]) -> RunFolder:
    run = RunFolder(root)
    write_json(run.config, {"resolved": to_dict(resolve(load_config("config/laptop/muloco.py", words)))})
    write_json(run.summary, {})
    return run


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"resolved": {"model": [1]}}', '{"resolved": []}'])
def test_a_damaged_config_json_is_named_and_left_alone(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path, damage: str
) -> None:
    config = RunFolder(tmp_path / "runs" / "tiny_lr0.01").config
    config.parent.mkdir(parents=True)
    config.write_text(damage)
    status, said = muloco("sweep", sweep_file(2), "status")
    note = " ".join(said.replace("│", " ").split())
    assert status == 1 and "its config.json cannot be used" in note and "taken" in note


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "settings": [], "jobs": 3}'])
def test_a_damaged_sweep_json_is_named_in_one_line(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path, damage: str
) -> None:
    file = sweep_file(1)
    muloco("sweep", file)
    state = tmp_path / "generated_job_files" / "many" / "sweep.json"
    state.write_text(damage)
    status, said = muloco("sweep", file, "status")
    assert status == 2 and said.startswith("muloco: ") and str(state) in said


def test_progress_is_of_the_newest_attempt_and_reads_only_the_end_of_long_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert progress(folder).step is None
    for attempt, steps in ((1, 3000), (2, 2990)):
        writer = MetricsWriter(folder.metrics(0), worker=0, attempt=attempt)
        for step in range(1, steps + 1):
            writer.write(step, {"loss": float(attempt)})
        writer.close()
    tell_state(folder, [0], attempt=3, state=State.PREPARING)  # it has not trained yet
    with folder.metrics(0).open("a") as file:
        file.write('{"torn')
    found = progress(folder)
    assert (found.step, found.loss, found.validation_loss) == (2990, 2.0, None)


def test_asking_leaves_nothing_behind(fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path) -> None:
    assert "2 not submitted" in muloco("sweep", sweep_file(2), "status")[1]
    assert not (tmp_path / "generated_job_files").exists()
