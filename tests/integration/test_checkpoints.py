"""Checkpoints when things go wrong: workers lost for good, bad disks, signals."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

from muloco.analysis.records.runs import read_run
from muloco.launch.supervisor import RESUMABLE
from muloco.runs.folder import RunFolder

from ..hostile import GADGETS, hide_in_metadata
from ..patience import PATIENCE
from ..run_on_disk import reseal
from .runs import TINY, Run, command, train
from .waiting import wait_for_end, wait_until

pytestmark = pytest.mark.integration

MULOCO = "config/laptop/muloco.py"
ALONE = {"fault_tolerance__group_size": 1, "fault_tolerance__sync_steps": 4, "metrics__log_freq": 1}


@pytest.fixture(autouse=True)
def _one_thread_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def start(outputs: Path, name: str, **settings: Any) -> tuple[subprocess.Popen, RunFolder]:
    with (outputs / f"{name}.out").open("w") as output:
        process = subprocess.Popen(command(outputs, name, MULOCO, **settings), stdout=output, stderr=subprocess.STDOUT)
    return process, RunFolder(outputs / name)


def ended(process: subprocess.Popen, folder: RunFolder) -> Run:
    status = wait_for_end(process, folder.root.parent)
    return Run(folder=folder, status=status, output=folder.root.with_suffix(".out").read_text())


def synced(folder: RunFolder, worker: int) -> bool:
    return folder.metrics(worker).exists() and '"sync"' in folder.metrics(worker).read_text()


def contents(part: Path) -> dict[str, Any]:
    """Every value of a part, by its full name."""

    def flatten(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        flat = {}
        for key, value in values.items():
            flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return flat

    return flatten(_load_state_dict_from_keys(checkpoint_id=part), "")


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_written_beside_the_training_they_hold_the_same(tmp_path: Path) -> None:
    """Every step is saved: with a fragment in flight, and without."""
    settings = {**ALONE, "training__steps": 5, "checkpoint__interval": 1, "checkpoint__keep": 0}
    settings |= {"fault_tolerance__num_fragments": 2, "fault_tolerance__fragment_sync_delay": 1}
    ways = {"beside": True, "between": False}
    runs = [train(tmp_path, name, MULOCO, **settings, checkpoint__asynchronous=way) for name, way in ways.items()]
    assert [run.status for run in runs] == [0, 0], runs
    for step in range(1, 6):
        for part in ("global", "worker-000"):
            one, other = (contents(run.folder.checkpoint / f"step-{step}" / part) for run in runs)
            assert one.keys() == other.keys() and len(one) > 50
            for name, value in one.items():
                same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
                assert same, (step, part, name)


@pytest.mark.full
def test_what_was_cut_short_is_passed_over_for_the_checkpoint_before(tmp_path: Path) -> None:
    settings = {**ALONE, "training__steps": 6, "checkpoint__interval": 2, "checkpoint__keep": 0}
    first = train(tmp_path, "cut", MULOCO, **settings)
    assert first.status == 0, first.output
    whole = first.learned()
    first.folder.summary.unlink()
    data = first.folder.checkpoint / "step-6" / "worker-000" / "__0_0.distcp"
    os.truncate(data, data.stat().st_size - 1)
    (first.folder.checkpoint / "step-4" / "manifest.json").unlink()
    again = train(tmp_path, "cut", MULOCO, "--resume", **settings)
    assert again.status == 0, again.output
    assert re.search(rf"skipped checkpoint \S+step-6: {data} has \d+ bytes instead of \d+", again.output)
    assert re.search(r"skipped checkpoint \S+step-4: not all of its parts were written", again.output)
    assert "resumed from checkpoint step-2" in again.output
    assert again.learned() == whole


@pytest.mark.full
@pytest.mark.parametrize("workers", [1, 2])
def test_all_workers_leave_aside_what_is_damaged_or_hostile(tmp_path: Path, workers: int) -> None:
    """The last checkpoint has a flipped bit, and the one before it a foreign object in its metadata."""
    settings = {"fault_tolerance__group_size": workers, "fault_tolerance__sync_steps": 2, "training__steps": 6}
    settings |= {"checkpoint__interval": 2, "checkpoint__keep": 0, "metrics__log_freq": 1}
    first = train(tmp_path, "damaged", MULOCO, **settings)
    assert first.status == 0, first.output
    whole, proof = first.learned(), tmp_path / "proof"
    first.folder.summary.unlink()
    hide_in_metadata(first.folder.checkpoint / "step-4" / "global", GADGETS["os.system"](proof))
    reseal(first.folder, 4)
    data = first.folder.checkpoint / "step-6" / "global" / "__0_0.distcp"
    flipped = bytearray(data.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    data.write_bytes(flipped)
    words = [sys.executable, "-m", "muloco", "check", str(first.folder.root), "--all"]
    checked = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert checked.returncode == 1 and checked.stdout.count("not whole") == 2, checked.stdout + checked.stderr

    again = train(tmp_path, "damaged", MULOCO, "--resume", **settings)
    assert again.status == 0, again.output
    for worker in range(workers):
        log = again.folder.log(worker).read_text()
        assert f"step-6: {data} is damaged: its SHA-256 is" in log and "it names posix.system" in log
        assert log.count("resumed from checkpoint step-2") == 1, log
    assert not proof.exists()
    assert again.learned() == whole


@pytest.mark.full
def test_a_full_disk_stops_no_training_but_is_told(tmp_path: Path) -> None:
    settings = {**ALONE, "training__steps": 10, "checkpoint__interval": 4, "checkpoint__keep": 0}
    whole = train(tmp_path, "whole", MULOCO, **settings)
    assert whole.status == 0, whole.output
    learned = whole.learned()
    whole.go_back_to(4)
    (before,) = (path.read_bytes() for path in whole.folder.checkpoint.glob("step-4/global/__0_0.distcp"))
    limited = subprocess.run(
        command(tmp_path, "whole", MULOCO, "--resume", **settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
    )
    run = Run(folder=whole.folder, status=limited.returncode, output=limited.stdout + limited.stderr)
    assert run.status == 3
    message = r"checkpoint step-{}\s+was not written: \[Errno 27\] File too large: '\S+/step-{}/\.worker-000\S+distcp'"
    assert re.search(message.format(8, 8) + "; the training goes on", run.output), run.output
    assert re.search("worker 0 failed: CheckpointNotWritten: " + message.format(10, 10), run.output)
    assert [line["step"] for line in run.lines(event="checkpoint_failed")] == [8, 10]
    assert run.validation()[10] == learned["validation"][10]
    assert not list(run.folder.checkpoint.glob("*/.*"))
    assert (run.folder.checkpoint / "step-4" / "global" / "__0_0.distcp").read_bytes() == before

    again = train(tmp_path, "whole", MULOCO, "--resume", **settings)
    assert again.status == 0 and "resumed from checkpoint step-4" in again.output, again.output
    assert again.learned() == learned


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = train(tmp_path / "file", "refused", MULOCO, training__steps=2)
    assert run.status == 2
    message = f"the run folder cannot be written to (run.outputs, run.name): {tmp_path}/file is not a folder"
    assert message in run.output


@pytest.mark.full
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_leaves_a_checkpoint_from_which_the_run_goes_on_bit_by_bit(tmp_path: Path, workers: int) -> None:
    settings = {**ALONE, "fault_tolerance__group_size": workers, "training__steps": 40}
    whole = train(tmp_path, "whole", MULOCO, **settings)
    assert whole.status == 0, whole.output

    process, folder = start(tmp_path, "stopped", **settings)
    wait_until(lambda: synced(folder, workers - 1), "no sync", tmp_path, process)
    number = signal.SIGTERM if workers == 2 else signal.SIGUSR1
    process.send_signal(number)
    stopped = ended(process, folder)
    assert stopped.status == 128 + number, stopped.output
    where = re.search(r"the checkpoint of step (\d+) is kept; .* muloco train (\S+) --resume", stopped.output)
    assert where is not None and where[2] == str(folder.config), stopped.output
    step = int(where[1])
    assert 4 <= step < 40 and (workers == 1 or step % 4 == 0)
    assert max(line["step"] for line in stopped.lines()) == step
    assert not folder.summary.exists()

    again = train(tmp_path, "stopped", MULOCO, "--resume", **settings)
    assert again.status == 0 and f"resumed from checkpoint step-{step}" in again.output
    assert {line["attempt"] for line in again.lines(worker=0)} == {1, 2}
    assert again.learned() == whole.learned()


@pytest.mark.full
def test_a_run_that_lost_a_worker_for_good_is_taken_up_again_by_all(tmp_path: Path) -> None:
    settings = {
        "fault_tolerance__group_size": 3,
        "fault_tolerance__restarts": 0,
        "fault_tolerance__sync_steps": 4,
        "training__global_batch_size": 12,
        "training__steps": 60,
        "checkpoint__interval": 6,
        "metrics__log_freq": 1,
    }
    process, folder = start(tmp_path, "diminished", **settings)
    wait_until(lambda: synced(folder, 2), "no sync", tmp_path, process)
    subprocess.run(["pkill", "-9", "-f", f"{folder.config} --fault_tolerance.replica_id 2"], check=True)

    def without_it() -> list[int]:
        manifests = (json.loads(path.read_text()) for path in folder.checkpoint.glob("*/manifest.json"))
        return [m["step"] for m in manifests if m["parts"] == ["global", "worker-000", "worker-001"]]

    wait_until(without_it, "no checkpoint without worker 2", tmp_path, process)
    process.send_signal(signal.SIGINT)
    diminished = ended(process, folder)
    assert diminished.status == 130, diminished.output
    resumed = max(without_it())
    last = max(line["step"] for line in diminished.lines(event="sync", worker=2))

    again = train(tmp_path, "diminished", MULOCO, "--resume", **settings)
    assert again.status == 0, again.output
    assert f"checkpoint step-{resumed} has no part of worker 2, which was away then" in again.output
    assert [line["step"] for line in again.lines(event="join")] == [resumed]
    assert all(len(set(digests.values())) == 1 for digests in again.digests())
    later = [line for line in again.lines(event="sync") if line["step"] > resumed]
    assert later and all(line["participants"] == 3 for line in later)
    first = [line for line in later if line["step"] == later[0]["step"]]
    assert all(line["weights"]["2"] == line["step"] - resumed for line in first)
    # it goes on in its data where its last sync was: tokens of 4 sequences of 64 a step
    tokens = {line["step"]: line["tokens"] for line in again.lines(worker=2) if "tokens" in line}
    assert tokens[60] == (last + 60 - resumed) * 4 * 64
    manifest = json.loads((folder.checkpoint / "step-60" / "manifest.json").read_text())
    assert manifest["parts"] == ["global", "worker-000", "worker-001", "worker-002"]


KILLED = """
import os, signal, sys
from pathlib import Path

if "worker" in sys.orig_argv:
    from muloco.failpoints import on_hit

    manifest = Path(sys.argv[2]).parent / "checkpoint" / "step-4" / "manifest.json"

    def kill(phase):
        if phase == "validation" and manifest.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    on_hit(kill)
"""


@pytest.mark.full
def test_a_run_killed_before_its_last_validation_ends_well_wherever_it_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is moved meanwhile. Asked for again the run has ended; asked for more steps it goes on."""
    settings = {**ALONE, "training__steps": 4, "lr_scheduler__min_lr_factor": 1, "fault_tolerance__resumes": 0}
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(KILLED)
    path = os.environ.get("PYTHONPATH", "")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path / 'hook'}:{path}")
        killed = train(tmp_path / "outputs", "run", MULOCO, **settings)
    assert killed.status == RESUMABLE and "killed by SIGKILL" in killed.output, killed.output
    assert list(killed.validation()) == [0] and not killed.folder.summary.exists()

    folder = RunFolder(shutil.move(killed.folder.root, tmp_path / "moved"))
    (tmp_path / "elsewhere").mkdir()

    def resume(*words: str) -> Run:
        done = subprocess.run(
            [sys.executable, "-m", "muloco", "train", "../moved/config.json", "--resume", *words],
            cwd=tmp_path / "elsewhere",
            env={**os.environ, "PYTHONPATH": path or str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return Run(folder=folder, status=done.returncode, output=done.stdout + done.stderr)

    again = resume()
    assert again.status == 0, again.output
    assert list(again.validation()) == [0, 4] and again.summary()["validation_loss"] == again.validation()[4]
    assert folder.loss_plot.exists() and not list((tmp_path / "elsewhere").iterdir())
    before = folder.summary.read_bytes()
    once_more = resume()
    assert once_more.status == 0 and "is complete at step 4" in once_more.output, once_more.output
    assert folder.summary.read_bytes() == before

    longer = resume("--training.steps", "8")
    assert longer.status == 0 and "training.steps 4 -> 8" in longer.output, longer.output
    assert longer.summary()["steps"] == 8 and list(longer.validation()) == [0, 4, 8]
    assert [step for step, _ in longer.losses()] == list(range(1, 9))


def test_a_run_whose_workers_never_begin_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text('import sys\nif "worker" in sys.orig_argv: sys.exit("no such device")\n')
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    failed = train(tmp_path, "run", MULOCO, **ALONE, training__steps=2)
    assert failed.status == 1 and "worker 0 failed" in failed.output, failed.output
    assert not failed.folder.config.exists()
    assert "no such device" in failed.folder.log(0).read_text()


def test_workers_that_are_started_by_hand_leave_a_summary(tmp_path: Path) -> None:
    values = {**TINY, "training.steps": 4, "fault_tolerance.sync_steps": 2, "fault_tolerance.transport": "in_process"}
    values |= {"run.name": "run", "run.outputs": tmp_path}
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, "-m", "muloco", "worker", MULOCO, *words], capture_output=True, timeout=150)
    run = Run(folder=RunFolder(tmp_path / "run"), status=done.returncode, output=done.stdout.decode())
    assert run.status == 0, run.output
    summary = run.summary()
    assert (summary["steps"], summary["tokens"], summary["workers"]) == (4, 4 * 8 * 64, 2)
    assert summary["validation_loss"] == run.validation()[4] and len(summary["corpus_sha256"]) == 1
    found, problems = read_run(run.folder.root)
    assert found is not None and found.loss == summary["validation_loss"] and problems == []
