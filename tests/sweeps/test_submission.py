"""Submitting under a SLURM in memory: within the node limit, each job once, again what failed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from muloco.runs.folder import RunFolder, write_json
from muloco.sweeps import slurm
from muloco.sweeps import submit as submit_module
from muloco.sweeps.slurm import SlurmError

from .fake_slurm import FakeSlurm

Muloco = Callable[..., tuple[int, str]]
SweepFile = Callable[[int], Path]


def folder_of(file: Path) -> Path:
    return file.parent / "generated_job_files" / file.stem


def test_the_node_limit_holds_under_twenty_jobs(fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco) -> None:
    status, said = muloco("sweep", sweep_file(20), "--submit", "--node-limit", 3)
    assert status == 0 and len(fake.names) == len(set(fake.names)) == 20
    assert fake.most_nodes == 3 and "3 of 3 nodes are taken" in said and "20 submitted" in said


def test_other_jobs_of_the_user_count_but_not_those_of_other_partitions(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path
) -> None:
    big = tmp_path / "big.sh"
    big.write_text("#SBATCH --job-name=big\n#SBATCH --nodes=4\n")
    fake.add(big)
    fake.add(big, partition="other")
    fake.most_nodes = 0
    status, said = muloco("sweep", sweep_file(1), "--submit", "--node-limit", 4, "--partition", "main")
    assert status == 0 and "4 of 4 nodes are taken" in said
    assert [job.name for job in fake.queue] == ["big", "tiny"] and fake.queue[0].partition == "other"


def test_a_job_of_more_nodes_than_the_limit_is_left(fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco) -> None:
    status, said = muloco("sweep", sweep_file(2), "--submit", "--node-limit", 1, "--nodes", 2)
    assert status == 1 and not fake.jobs and "takes 2 nodes, and the node limit is 1" in said


def test_a_submission_that_was_interrupted_is_taken_up_without_losing_or_doubling_a_job(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco
) -> None:
    """Whenever Ctrl-C comes: before a job is SLURM's, or when it is but nobody has written that down."""
    file = sweep_file(4)

    def interrupt_at(count: int) -> Callable[[], None]:
        def interrupt() -> None:
            if len(fake.jobs) == count:
                raise KeyboardInterrupt

        return interrupt

    fake.before_sbatch = interrupt_at(1)
    assert muloco("sweep", file, "--submit")[0] == 130 and len(fake.jobs) == 1
    fake.before_sbatch, fake.after_sbatch = (lambda: None), interrupt_at(2)
    assert muloco("sweep", file, "--submit")[0] == 130 and len(fake.jobs) == 2
    fake.after_sbatch = lambda: None
    status, said = muloco("sweep", file, "--submit")
    assert status == 0 and "job 2 is there already" in said and "2 submitted, 2 queued" in said
    assert len(fake.names) == len(set(fake.names)) == 4
    assert muloco("sweep", file, "--submit")[0] == 0 and len(fake.jobs) == 4
    _, said = muloco("sweep", file, "status")
    assert "4 queued" in said


def test_a_job_of_that_name_from_elsewhere_is_neither_adopted_nor_doubled(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path
) -> None:
    (tmp_path / "else.sh").write_text("#SBATCH --job-name=tiny\n#SBATCH --nodes=1\n")
    fake.add(tmp_path / "else.sh")
    status, said = muloco("sweep", sweep_file(1), "--submit")
    assert status == 1 and len(fake.jobs) == 1 and "a job of this name is queued, from" in said


def test_what_failed_is_submitted_again_but_not_for_ever(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path
) -> None:
    file = sweep_file(2)
    muloco("sweep", file, "--submit")
    write_json(RunFolder(tmp_path / "runs" / "tiny_lr0.01").summary, {})
    fake.end("tiny_lr0.01")
    for attempt in (2, 3):
        fake.end("tiny_lr0.02", "NODE_FAIL", 1)
        status, said = muloco("sweep", file, "--submit")
        assert status == 0 and f"try {attempt}" in said and "1 submitted, 1 queued, running or done" in said
    fake.end("tiny_lr0.02", "TIMEOUT")
    fake.forgotten = {job.id for job in fake.jobs}
    status, said = muloco("sweep", file, "--submit")
    assert status == 1 and "failed 3 times" in said and len(fake.jobs) == 4
    assert muloco("sweep", file, "--submit", "--retry")[0] == 0 and len(fake.jobs) == 5
    assert fake.names.count("tiny_lr0.01") == 1


@pytest.mark.parametrize(("status", "remembered"), [(2, True), (2, False), (3, True)])
def test_what_would_fail_again_is_not_tried_again_before_it_is_changed(
    status: int, remembered: bool, fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco
) -> None:
    """Known from SLURM as long as it remembers the job, and from the job's log after that."""
    file = sweep_file(1)
    muloco("sweep", file, "--submit")
    (folder_of(file) / "tiny-1.out").write_text("...\nmuloco: there is no /data/books.jsonl\n")
    fake.end("tiny", "FAILED", status)
    if not remembered:
        fake.forgotten = {"1"}
    exit_status, said = muloco("sweep", file, "--submit")
    assert exit_status == 1 and len(fake.jobs) == 1
    assert "it would fail again" in said and "there is no /data/books.jsonl" in said
    assert "1 failed" in muloco("sweep", file, "status")[1]
    (folder_of(file) / "tiny.sh").unlink()
    assert muloco("sweep", file, "--submit", "--training.steps", 9)[0] == 0 and len(fake.jobs) == 2


def test_scripts_that_differ_stay_unless_the_sweep_wrote_them_and_nobody_has_submitted_them(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco
) -> None:
    file = sweep_file(2)
    mine, other = (folder_of(file) / f"tiny_lr{lr}.sh" for lr in (0.01, 0.02))
    assert muloco("sweep", file)[0] == 0 and "--training.steps 9" not in mine.read_text()
    assert muloco("sweep", file, "--training.steps", 9)[0] == 0 and "--training.steps 9" in mine.read_text()
    mine.write_text(mine.read_text() + "echo by hand\n")
    kept = mine.read_text()
    status, said = muloco("sweep", file, "--submit")
    assert status == 1 and "is not as this sweep wrote it" in said and "-echo by hand" in said
    assert mine.read_text() == kept and fake.names == ["tiny_lr0.02"]
    before = other.read_text()
    status, said = muloco("sweep", file, "--dry-run", "--training.steps", 7)
    assert status == 1 and "was submitted as job 1, and stays" in said and "+ --training.steps 7" in said
    assert other.read_text() == before


def test_what_submit_and_status_are_not_told_is_as_in_the_last_dry_run(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco
) -> None:
    file = sweep_file(1)
    muloco("sweep", file, "--partition", "gpu", "--training.steps", 9)
    written = (folder_of(file) / "tiny.sh").read_text()
    assert muloco("sweep", file, "--submit", "--node-limit", 5)[0] == 0
    assert (folder_of(file) / "tiny.sh").read_text() == written and "--training.steps 9" in written
    assert fake.jobs[0].partition == "gpu"


def test_a_second_submission_at_the_same_time_is_refused(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco
) -> None:
    file = sweep_file(1)
    answers = []
    fake.before_sbatch = lambda: answers.append(muloco("sweep", file, "--submit"))
    status, _ = muloco("sweep", file, "--submit")
    assert status == 0 and len(fake.jobs) == 1
    assert answers[0][0] == 2 and "another `muloco sweep --submit`" in answers[0][1]


def test_without_slurm_submitting_says_what_to_do_and_a_dry_run_works(
    sweep_file: SweepFile, muloco: Muloco, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    file = sweep_file(1)
    assert muloco("sweep", file)[0] == 0
    status, said = muloco("sweep", file, "--submit")
    assert status == 1 and "there is no squeue on this machine: submit from a login node" in said


def test_a_job_that_is_done_stays_done_whatever_its_script_would_be_now(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path
) -> None:
    file = sweep_file(1)
    muloco("sweep", file, "--submit")
    fake.end("tiny")
    write_json(RunFolder(tmp_path / "runs" / "tiny").summary, {})
    before = (folder_of(file) / "tiny.sh").read_text()
    status, said = muloco("sweep", file, "--submit", "--time", "1:00:00")
    assert status == 0 and "0 submitted, 1 queued, running or done" in said and len(fake.jobs) == 1
    assert (folder_of(file) / "tiny.sh").read_text() == before


@pytest.mark.parametrize("how", ["--submit", "--here"])
def test_jobs_for_which_the_embedded_corpus_is_too_small_are_not_started(
    how: str, fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path
) -> None:
    """1024 sequences of 2048 tokens to validate on, as in the paper: more tokens than a twentieth of it has bytes."""
    file = sweep_file(3)
    words = ("--validation.sequences", 1024, "--training.seq_len", 2048)
    status, said = muloco("sweep", file, *words)
    assert status == 0 and "warning: 3 of 3 jobs have the embedded corpus" in said
    status, said = muloco("sweep", file, how, *words)
    assert status == 2 and "3 of 3 jobs" in said and "--data.corpus" in said and "--data.tokenizer" in said
    assert fake.jobs == [] and not (tmp_path / "runs").exists()
    (tmp_path / "books.txt").write_text("text\n")
    assert muloco("sweep", file, "--submit", *words, "--data.corpus", tmp_path / "books.txt")[0] == 0
    assert len(fake.jobs) == 3


def test_what_slurm_gives_unasked_is_said(fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco) -> None:
    file = sweep_file(1)
    asked = ("--memory", "0", "--gpus-per-node", 8)
    for how in ("--dry-run", "--submit"):
        said = muloco("sweep", file, how, *asked)[1]
        assert "one CPU of each node (cpus_per_node), the partition's default time (time)" in said
    said = muloco("sweep", file, *asked, "--cpus-per-node", 0, "--time", "1:00:00")[1]
    assert "warning" not in said


def test_without_a_node_limit_sixteen_nodes_are_taken_at_a_time(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco
) -> None:
    file = sweep_file(20)
    assert muloco("sweep", file, "--submit")[0] == 0
    assert len(fake.jobs) == 20 and fake.most_nodes == 16


def test_paths_hold_from_every_folder(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sweep_file(1)
    (tmp_path / "books.txt").write_text("text\n")
    monkeypatch.chdir(tmp_path)
    assert muloco("sweep", file, "--data.corpus", "books.txt")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert muloco("sweep", file, "--submit")[0] == 0
    assert f"--data.corpus {tmp_path}/books.txt" in Path(fake.jobs[0].script).read_text()
    assert "1 queued" in muloco("sweep", file, "status")[1]


def test_a_controller_that_does_not_answer_loses_and_doubles_no_job(
    fake: FakeSlurm, sweep_file: SweepFile, muloco: Muloco, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it takes the script nevertheless, once it does not."""
    monkeypatch.setattr(submit_module, "time", SimpleNamespace(sleep=lambda seconds: None))

    def fail_at(*counts: int) -> Callable[[], None]:
        def fail() -> None:
            calls.append(len(fake.jobs))
            if len(calls) in counts:
                raise SlurmError("sbatch failed: error: Batch job submission failed: Socket timed out on send/recv")

        calls: list[int] = []
        return fail

    fake.before_sbatch, fake.after_sbatch = fail_at(1, 2), fail_at(2)
    status, said = muloco("sweep", sweep_file(3), "--submit")
    assert status == 0 and "3 submitted" in said and len(fake.names) == len(set(fake.names)) == 3


def test_answers_are_believed_only_as_far_as_they_are_answers(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.sh").write_text("#SBATCH --job-name=a\n#SBATCH --nodes=2\n")
    fake.add(tmp_path / "a.sh")
    monkeypatch.setattr(slurm, "_call", lambda command: f"*** Welcome ***\n{fake(command)}see you\n")
    assert [(job.id, job.nodes) for job in slurm.queue()] == [("1", 2)]
    assert slurm.submit(tmp_path / "a.sh") == "2"
    monkeypatch.setattr(slurm, "_call", lambda command: "*** Welcome ***\n")
    with pytest.raises(SlurmError, match="instead of the id of a job"):
        slurm.submit(tmp_path / "a.sh")


@pytest.mark.parametrize(("text", "count"), [("4", 4), ("1-4", 1), ("1K", 1024), ("1.50K", 1536), (" 12 ", 12)])
def test_numbers_of_nodes_as_squeue_writes_them(text: str, count: int) -> None:
    assert slurm.read_count(text) == count


def test_what_is_no_number_of_nodes_is_refused() -> None:
    with pytest.raises(SlurmError, match="'N/A' as the number"):
        slurm.read_count("N/A")
