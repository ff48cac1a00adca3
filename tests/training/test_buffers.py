"""A mixture of experts trains with outer steps: torchtitan's load balancing moves each worker's routers, and a sync
averages their biases. The numbers are compared with counts of the routers' own choices."""

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from muloco.export.folders import export_torch
from muloco.model.architecture import all_architectures, register
from muloco.outer import OuterLoop
from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.runs.folder import RunFolder
from muloco.training.continuation import Continuation, one_rank
from muloco.training.environment import ATTEMPT
from muloco.training.trained import find_trained
from muloco.training.trainer import MulocoTrainer

from ..covering import only
from ..model.mixture import EXPERTS, LAYERS, MIXTURE, STEP
from ..outer.joining import stand_still
from .one_worker import losses, train

STEPS, INTERVAL = 7, 3
RUN: dict[str, Any] = {
    "model__flavor": "mixture-tiny",
    "training__steps": STEPS,
    "training__global_batch_size": 8,
    "fault_tolerance__group_size": 2,
    "fault_tolerance__transport": "in_process",
    "fault_tolerance__sync_steps": INTERVAL,
    "fault_tolerance__num_fragments": 2,
    "checkpoint__enable": True,
    "checkpoint__interval": 1,
    "checkpoint__keep": 0,
}
BIASES = [f"layers.{layer}.moe.expert_bias_E" for layer in range(LAYERS)]


@pytest.fixture(autouse=True)
def _mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muloco.model.architecture._ARCHITECTURES", {new.name: new for new in all_architectures()})
    register(MIXTURE)


class Seen:
    """What happens to the routers of a run, by (worker, inner step)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens: dict[tuple[int, int], dict[str, Tensor]] = defaultdict(dict)
        """Tokens that each expert got in training, by name of the bias."""
        self.moved: dict[tuple[int, int], dict[str, Tensor]] = {}
        """Biases before the syncs of a step."""
        self.synced: dict[tuple[int, int], dict[str, Tensor]] = {}
        """Biases after them."""
        sync, step = OuterLoop.after_inner_step, MulocoTrainer.train_step

        def biases(loop: OuterLoop) -> dict[str, Tensor]:
            return {name: value.clone() for each in loop.fragments for name, value in each.buffers.items()}

        def after_inner_step(loop: OuterLoop, number: int, **options):
            at = loop.membership.identity.worker, number
            self.moved[at] = biases(loop)
            syncs = sync(loop, number, **options)
            self.synced[at] = biases(loop)
            return syncs

        def train_step(trainer: MulocoTrainer, batches) -> None:
            worker = trainer.config.muloco.fault_tolerance.replica_id
            (model,) = trainer.model_parts
            counts = {name: torch.zeros(EXPERTS) for name in BIASES}
            hooks = []
            for layer, name in enumerate(BIASES):
                router = model.get_submodule(f"layers.{layer}.moe.router")

                def count(module, args, out, count=counts[name], router=router) -> None:
                    if router.training:
                        count += torch.bincount(out[1].flatten(), minlength=EXPERTS)

                hooks.append(router.register_forward_hook(count))
            step(trainer, batches)
            for hook in hooks:
                hook.remove()
            self.tokens[worker, trainer.step] = counts
            left = [value for name, value in model.named_buffers() if name.endswith("tokens_per_expert_E")]
            assert len(left) == LAYERS and not any(value.any() for value in left), "load balancing has reset them"

        monkeypatch.setattr(OuterLoop, "after_inner_step", after_inner_step)
        monkeypatch.setattr(MulocoTrainer, "train_step", train_step)


def digests(metrics: list[dict[str, Any]]) -> dict[tuple[int, int], set[str]]:
    found: dict[tuple[int, int], set[str]] = defaultdict(set)
    for line in metrics:
        if line.get("event") == "sync":
            found[line["step"], line["fragment"]].add(line["digest"])
    return found


def test_load_balancing_moves_the_routers_of_a_worker_and_a_sync_makes_them_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    metrics = train(tmp_path, monkeypatch, "muloco", **RUN, compression__kind="linear", compression__bits=8)
    due = {BIASES[0]: {1, 4, 7}, BIASES[1]: {3, 6, 7}}
    before = {worker: {name: torch.zeros(EXPERTS) for name in BIASES} for worker in (0, 1)}
    for step in range(1, STEPS + 1):
        for worker in (0, 1):
            for name in BIASES:
                tokens = seen.tokens[worker, step][name]
                assert tokens.sum() == 2 * 2 * 64 * 2, "two batches of two sequences, two experts a token"
                way = STEP * torch.sign(tokens.mean() - tokens)
                moved = seen.moved[worker, step][name]
                torch.testing.assert_close(moved, before[worker][name] + way - way.mean(), rtol=0, atol=1e-6)
        for name in BIASES:
            zero, one = (seen.synced[worker, step][name] for worker in (0, 1))
            if step in due[name]:
                mean = (seen.moved[0, step][name].double() + seen.moved[1, step][name].double()) / 2
                torch.testing.assert_close(zero.double(), mean, rtol=0, atol=1e-7)
                assert torch.equal(zero, one), f"step {step}: the routers of {name} differ"
            else:
                assert torch.equal(zero, seen.moved[0, step][name]) and torch.equal(one, seen.moved[1, step][name])
        before = {worker: seen.synced[worker, step] for worker in (0, 1)}
    assert not torch.equal(seen.moved[0, 4][BIASES[0]], seen.moved[1, 4][BIASES[0]]), "before a sync they differ"
    found = digests(metrics)
    assert sorted(found) == [(1, 0), (3, 1), (4, 0), (6, 1), (7, 0), (7, 1)] and {len(d) for d in found.values()} == {1}
    validation = [loss for name, _, loss in losses(metrics) if name == "validation_loss"]
    assert validation[-1] < validation[0]

    trained = find_trained(str(tmp_path / "run"))
    model = trained.model("cpu", dtype=torch.bfloat16)
    for name in BIASES:
        assert torch.equal(model.get_buffer(name), seen.synced[0, STEPS][name]) and model.get_buffer(name).any()
    export_torch(trained, tmp_path / "exported", dtype=torch.bfloat16)
    exported = torch.load(tmp_path / "exported/model.pt", weights_only=True)
    assert all(torch.equal(exported[name], seen.synced[0, STEPS][name]) for name in BIASES)
    assert exported["norm.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("delay", only([1], [0, 1]))
def test_a_resume_after_any_step_gives_the_same_bits(
    delay: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"fault_tolerance__num_fragments": 1, "fault_tolerance__fragment_sync_delay": delay}
    more |= {"fault_tolerance__fragment_update_alpha": 0.5 * delay, "training__steps": 5}
    seen = Seen(monkeypatch)
    whole = train(tmp_path, monkeypatch, "muloco", **RUN | more)
    ended = dict(seen.synced)
    for step in (1, 2, 3, 4):
        outputs = tmp_path / str(step)
        shutil.copytree(tmp_path / "run", outputs / "run")
        folder = RunFolder(outputs / "run")
        folder.summary.unlink(missing_ok=True)
        for later in range(step + 1, 6):
            shutil.rmtree(folder.checkpoint / f"step-{later}")
        assert CheckpointFolder(folder.checkpoint).steps()[-1] == step
        for metrics in (folder.root / "metrics").iterdir():
            metrics.unlink()
        seen.synced.clear()
        with monkeypatch.context() as patch:
            patch.setenv(ATTEMPT, "2")
            again = train(outputs, monkeypatch, "muloco", **RUN | more)
        assert sorted(seen.synced) == [(worker, at) for worker in (0, 1) for at in range(step + 1, 6)]
        for at, biases in seen.synced.items():
            assert all(torch.equal(biases[name], ended[at][name]) for name in BIASES), f"resumed after {step}: {at}"
        later = {at: found for at, found in digests(whole).items() if at[0] > step}
        assert digests(again) == later, f"resumed after {step}"


def test_a_worker_that_missed_a_sync_takes_over_the_routers_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker 1 stands still before its first sync, until worker 0 comes to its second one."""
    seen = Seen(monkeypatch)
    sync, missed = OuterLoop.after_inner_step, []

    def after_inner_step(loop: OuterLoop, number: int, **options):
        group, worker = loop._transport._group, loop.membership.identity.worker
        if (worker, number) == (0, 2 * INTERVAL):
            group.present.add(1)
        if (worker, number) == (1, INTERVAL) and not missed:
            missed.append(number)
            stand_still(group, worker)
        return sync(loop, number, **options)

    monkeypatch.setattr(OuterLoop, "after_inner_step", after_inner_step)
    metrics = train(tmp_path, monkeypatch, "muloco", **RUN | {"fault_tolerance__num_fragments": 1})
    assert [line["step"] for line in metrics if line.get("event") == "join"] == [2 * INTERVAL]
    assert (1, INTERVAL + 1) not in seen.synced and (1, 2 * INTERVAL + 1) in seen.synced
    for name in BIASES:
        alone = seen.synced[0, 2 * INTERVAL][name]
        assert torch.equal(seen.synced[1, INTERVAL][name], alone) and alone.any(), "it goes on from the anchor"
        assert not torch.equal(seen.moved[1, INTERVAL][name], alone)
        assert torch.equal(seen.synced[0, STEPS][name], seen.synced[1, STEPS][name])
    assert {len(found) for found in digests(metrics).values()} == {1}


def test_a_worker_without_a_part_begins_with_the_routers_of_the_anchor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is of mid-window, and worker 1's part of it is damaged."""
    more = {"fault_tolerance__num_fragments": 1}
    seen = Seen(monkeypatch)
    train(tmp_path, monkeypatch, "muloco", **RUN | more | {"training__steps": INTERVAL + 2})
    saved = dict(seen.synced)
    folder = RunFolder(tmp_path / "run")
    folder.summary.unlink(missing_ok=True)
    shutil.rmtree(folder.checkpoint / f"step-{INTERVAL + 2}")
    (damaged,) = (folder.checkpoint / f"step-{INTERVAL + 1}" / "worker-001").glob("*.distcp")
    damaged.write_bytes(bytes(damaged.stat().st_size))
    start, begun = OuterLoop.start, {}

    def begin(loop: OuterLoop, step: int) -> None:
        begun[loop.membership.identity.worker] = {
            name: value.clone() for each in loop.fragments for name, value in each.buffers.items()
        }
        start(loop, step)

    monkeypatch.setattr(OuterLoop, "start", begin)
    with monkeypatch.context() as patch:
        patch.setenv(ATTEMPT, "2")
        train(tmp_path, monkeypatch, "muloco", **RUN | more | {"training__steps": INTERVAL + 2})
    for name in BIASES:
        assert torch.equal(begun[0][name], saved[0, INTERVAL + 1][name])
        assert torch.equal(begun[1][name], saved[1, INTERVAL][name])
        assert not torch.equal(begun[1][name], saved[1, INTERVAL + 1][name])


def test_workers_that_average_their_weights_agree_on_the_routers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPA, of which the model to use is the average: its routers are those of the worker that saves it."""
    seen = Seen(monkeypatch)
    metrics = train(tmp_path, monkeypatch, "gpa", **RUN | {"fault_tolerance__num_fragments": 1})
    assert {step for step, _ in digests(metrics)} == {3, 6, 7}
    model = find_trained(str(tmp_path / "run")).model("cpu")
    for name in BIASES:
        for step in (INTERVAL, STEPS):
            assert torch.equal(seen.synced[0, step][name], seen.synced[1, step][name])
        assert torch.equal(model.get_buffer(name), seen.synced[0, STEPS][name]) and model.get_buffer(name).any()


def test_a_continuation_begins_with_the_routers_of_the_anchor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, monkeypatch, "muloco", **RUN | {"fault_tolerance__num_fragments": 1})
    trained = find_trained(str(tmp_path / "run"), step=INTERVAL + 1)
    with one_rank():
        continuation = Continuation(trained, counts=[2], steps=1, scratch=tmp_path / "scratch")
        (model,) = continuation._trainer.model_parts
        for _ in range(2):
            continuation.restart()
            for name in BIASES:
                anchor = trained.weights()[name]
                assert torch.equal(model.get_buffer(name), anchor) and anchor.any()
            continuation.take(1, worker=0, workers=2)
            assert not any(torch.equal(model.get_buffer(name), trained.weights()[name]) for name in BIASES)
        continuation.close()


def test_without_outer_steps_a_checkpoint_has_the_routers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {"fault_tolerance__group_size": 1, "fault_tolerance__semi_sync_method": "none"}
    more = {"outer_optimizer__lr": None, "outer_optimizer__momentum": None, "fault_tolerance__num_fragments": 1}
    model = None
    step = MulocoTrainer.train_step

    def train_step(trainer: MulocoTrainer, batches) -> None:
        nonlocal model
        step(trainer, batches)
        (model,) = trainer.model_parts

    monkeypatch.setattr(MulocoTrainer, "train_step", train_step)
    train(tmp_path, monkeypatch, "muloco", **RUN | alone | more)
    found = find_trained(str(tmp_path / "run")).model("cpu")
    assert model is not None
    for name in BIASES:
        assert torch.equal(found.get_buffer(name), model.get_buffer(name)) and found.get_buffer(name).any()
