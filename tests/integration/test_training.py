"""What the main job promises, on real processes."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from muloco.launch.lighthouse import start_lighthouse
from muloco.runs.folder import RunFolder, read_lines
from muloco.training.trackers import run_id

from ..covering import only
from .runs import Run, assert_private, command, train
from .test_compression import HEADERS

pytestmark = pytest.mark.integration

MULOCO = "config/laptop/muloco.py"


@pytest.mark.parametrize("transport", only(["in_process"], ["in_process", "torchft"]))
def test_two_workers_agree_learn_and_repeat(tmp_path: Path, transport: str) -> None:
    """Anchors are bit-equal after each sync, the held-out loss falls, the same seed gives the same bits, also where the
    workers take turns in one process, and two runs side by side do not disturb each other."""
    settings = {"training__steps": 40, "fault_tolerance__sync_steps": 9, "validation__freq": 18}

    def run(name: str, transport: str) -> Run:
        return train(tmp_path, name, MULOCO, **settings, fault_tolerance__transport=transport)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(run, ("one", "two"), ("torchft", transport))
    assert [one.status, two.status] == [0, 0], one.output + two.output
    assert [set(digests) for digests in one.digests()] == [{0, 1}] * 5
    assert all(digests[0] == digests[1] for digests in one.digests())
    assert len({digests[0] for digests in one.digests()}) == 5
    assert one.digests() == two.digests()
    assert one.losses(0) == two.losses(0) and one.losses(1) == two.losses(1)
    assert one.losses(0) != one.losses(1), "the workers read different data"

    validation = one.validation()
    assert list(validation) == [0, 18, 36, 40]
    assert validation[0] > 7.5 > 6.9 > validation[40]
    theirs = {m["step"]: m["validation_loss"] for m in one.lines(worker=1) if "validation_loss" in m}
    assert theirs == validation, "to the last bit"

    summary = one.summary()
    parameters = 363_200
    assert summary["workers"] == 2 and summary["steps"] == 40 and summary["syncs"] == 5
    assert summary["tokens"] == 40 * 8 * 64
    assert summary["validation_loss_before"] == validation[0] and summary["validation_loss"] == validation[40]
    assert 0 < summary["bytes_sent_per_worker"] - 5 * 4 * parameters <= 5 * HEADERS
    assert summary["tokens_per_second"] > 0 and summary["wall_seconds"] > 0
    assert one.folder.loss_plot.read_bytes().startswith(b"\x89PNG")
    for part in ("held-out loss", "sent by a worker", f"loss curve: {one.folder.loss_plot}"):
        assert part in one.output
    assert "finished all 40 steps" in one.folder.log(1).read_text()
    assert_private(one)


@pytest.mark.full
def test_eight_workers_agree_and_learn(tmp_path: Path) -> None:
    run = train(
        tmp_path,
        "eight",
        MULOCO,
        fault_tolerance__group_size=8,
        training__global_batch_size=32,
        training__steps=20,
        fault_tolerance__sync_steps=7,
    )
    assert run.status == 0, run.output
    assert [len(digests) for digests in run.digests()] == [8, 8, 8]
    assert all(len(set(digests.values())) == 1 for digests in run.digests())
    assert run.validation()[20] < run.validation()[0] - 0.5
    assert_private(run)


@pytest.mark.full
def test_sync_at_every_step_is_data_parallel_sgd(tmp_path: Path) -> None:
    """K = 2, H = 1, the average of the parameters, SGD inside, no clipping: one worker of two data-parallel ranks."""
    settings = {
        "optimizer__name": "SGD",
        "optimizer__lr": 0.5,
        "optimizer__mu": 0.0,
        "optimizer__weight_decay": 0.0,  # derived, it would be by the batch of a worker
        "training__max_norm": None,
        "training__steps": 6,
    }
    outer = {"outer_optimizer__lr": None, "outer_optimizer__momentum": None}  # derived, instead of MuLoCo's
    local_sgd = {"fault_tolerance__semi_sync_method": "local_sgd", "fault_tolerance__sync_steps": 1, **outer}
    averaged = train(tmp_path, "averaged", MULOCO, **settings, **local_sgd, fault_tolerance__transport="in_process")
    joint = train(
        tmp_path, "joint", "config/laptop/adamw.py", **settings, parallelism__data_parallel_replicate_degree=2
    )
    assert (averaged.status, joint.status) == (0, 0), averaged.output + joint.output
    ours, theirs = averaged.anchor(6), joint.anchor(6)
    moved = averaged.validation()[0] - averaged.validation()[6]
    assert moved > 0.1
    assert ours.keys() == theirs.keys() and len(ours) == 29
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.full
@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_one_worker_without_outer_steps_learns(tmp_path: Path, method: str) -> None:
    run = train(tmp_path, method, f"config/laptop/{method}.py", training__steps=20)
    assert run.status == 0, run.output
    assert run.digests() == [] and not run.folder.log("lighthouse").exists()
    assert run.validation()[20] < run.validation()[0] - 0.5


@pytest.mark.full
def test_one_worker_needs_no_lighthouse(tmp_path: Path) -> None:
    alone = train(
        tmp_path, "alone", MULOCO, fault_tolerance__group_size=1, training__steps=20, fault_tolerance__sync_steps=6
    )
    assert alone.status == 0, alone.output
    assert len(alone.digests()) == 4 and not alone.folder.log("lighthouse").exists()
    assert alone.summary()["bytes_sent_per_worker"] == 0
    for line in alone.lines(event="sync"):
        assert line["weights"] == {"0": 2 if line["step"] == 20 else 6}
        assert line["cosine"] == pytest.approx(1) and line["mean_norm"] == line["pseudogradient_norm"] > 0
    assert alone.validation()[20] < alone.validation()[0] - 0.5


@pytest.mark.full
def test_sharded_workers_learn_what_whole_ones_do(tmp_path: Path) -> None:
    """Two workers of two FSDP ranks see the batches of two workers of one rank in other shares: the start is the same
    to rounding, the way down alike."""
    settings = {
        "training__steps": 12,
        "fault_tolerance__sync_steps": 5,
        "validation__freq": 5,
        "validation__sequences": 13,  # the last batch of the second rank is padding alone
    }
    sharded = train(tmp_path, "sharded", MULOCO, **settings, parallelism__data_parallel_shard_degree=2)
    whole = train(tmp_path, "whole", MULOCO, **settings)
    assert (sharded.status, whole.status) == (0, 0), sharded.output + whole.output
    assert all(len(set(digests.values())) == 1 for digests in sharded.digests())
    assert sharded.validation()[0] == pytest.approx(whole.validation()[0], abs=1e-4)
    assert sharded.validation()[12] == pytest.approx(whole.validation()[12], abs=0.15)
    assert sharded.summary()["tokens"] == whole.summary()["tokens"] == 12 * 8 * 64
    more = sharded.summary()["bytes_sent_per_worker"] - whole.summary()["bytes_sent_per_worker"]
    assert 0 < more <= sharded.summary()["syncs"] * HEADERS, "each of the two ranks sends headers and tags"
    assert_private(sharded)
    assert_private(whole)


@pytest.mark.full
def test_workers_started_by_hand_meet_at_a_lighthouse(tmp_path: Path) -> None:
    """As the documentation says: one worker as it is, the other under torchrun."""
    lighthouse, address = start_lighthouse(workers=2, log=tmp_path / "lighthouse.log")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    workers = []
    for worker, launcher in enumerate(([], torchrun)):
        words = command(tmp_path, "by-hand", MULOCO, training__steps=4, fault_tolerance__sync_steps=2)[4:]
        started = [sys.executable, *launcher, "-m", "muloco", "worker", *words]
        secret = {"MULOCO_SECRET": "a secret of these two workers"}
        environment = {**os.environ, "TORCHFT_LIGHTHOUSE": address, "OMP_NUM_THREADS": "1", **secret}
        workers.append(
            subprocess.Popen([*started, "--fault_tolerance.replica_id", str(worker)], env=environment, text=True)
        )
    assert [worker.wait(120) for worker in workers] == [0, 0]
    lighthouse.end(grace_seconds=1)
    run = Run(folder=RunFolder(tmp_path / "by-hand"), status=0, output="")
    assert [set(digests) for digests in run.digests()] == [{0, 1}] * 2
    assert all(digests[0] == digests[1] for digests in run.digests())
    assert run.folder.config.exists()


@pytest.mark.full
@pytest.mark.parametrize("transport", ["in_process", "torchft"])
def test_all_who_show_a_run_get_the_same_values_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """TensorBoard and W&B, beside the metrics files, and no figures of GPUs where there is none; and a worker says
    little before its first step."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = train(
        tmp_path,
        "shown",
        MULOCO,
        training__steps=6,
        fault_tolerance__sync_steps=4,
        fault_tolerance__transport=transport,
        validation__freq=3,
        metrics__tensorboard=True,
        metrics__wandb=True,
    )
    assert run.status == 0, run.output
    for worker in (0, 1):
        (events,) = run.folder.tensorboard(worker).glob("events*")
        accumulator = EventAccumulator(str(events)).Reload()
        shown = {
            name: [(event.step, pytest.approx(event.value)) for event in accumulator.Scalars(name)]
            for name in accumulator.Tags()["scalars"]
        }
        written: dict[str, list[tuple[int, float]]] = {}
        for line in run.lines(worker=worker):
            prefix = "sync/" if line.get("event") == "sync" else ""
            for name in line.keys() - {"schema", "attempt", "time", "step", "worker", "event", "weights", "digest"}:
                written.setdefault(prefix + name, []).append((line["step"], line[name]))
        assert written == shown
        values = {name for name in written if not name.startswith("sync/")}
        validated = {f"{which}validation_{unit}" for which in ("", "local_") for unit in ("loss", "bits_per_byte")}
        assert values == {"loss", "lr", "grad_norm", "tokens", "tokens_per_second", "data_share", *validated}
        told = [line["state"] for line in read_lines(run.folder.metrics(worker)) if line.get("event") == "state"]
        assert (told[0], told[-1]) == ("preparing data", "finished")
        passed = {"building the model", "validating", "meeting the others", "training", "syncing", "saving"}
        assert set(told[1:-1]) == passed
        (kept,) = run.folder.root.glob(f"wandb/offline-run-*-{run_id(run.folder, worker, 'shown')}")
        assert list(kept.glob("*.wandb"))

    log = run.folder.log(0).read_text().splitlines()
    before = log[: next(number for number, line in enumerate(log) if "step 1/6" in line)]
    assert len([line for line in before if "wandb" not in line]) <= 12 * (1 if transport == "torchft" else 2)
