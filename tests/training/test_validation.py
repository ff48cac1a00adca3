"""The batches that each worker validates, and that the loss equals the one that a worker alone computes."""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from muloco._torchtitan import IGNORE_INDEX, ParallelDims, device_type
from muloco.data.held_out import HeldOutDataLoader
from muloco.data.prepared import Prepared, SplitWriter, tokenizer_sha256
from muloco.outer import OuterLoop, Transport, WorkerIdentity
from muloco.outer.in_process import InProcessGroup
from muloco.recipes import base
from muloco.resolve import resolve
from muloco.settings.config import Config
from muloco.settings.outer import OuterOptimizer
from muloco.training.batch_losses import mean, pack, unpack
from muloco.training.context import WorkerContext
from muloco.training.validation import AnchorValidator
from muloco.training.validation_cost import (
    held_out_batches,
    own_batches,
    shared_batches,
    validated_sequences,
    validation_share,
)

from ..outer.workers import run_workers

VOCABULARY = 50
SEQUENCES, SEQ_LEN, BATCH = 15, 8, 2  # eight batches, of which the last one is half empty
BATCHES = held_out_batches(SEQUENCES, BATCH)


class Toy(nn.Module):
    """A model of 1616 parameters that counts the sequences it computes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.head = nn.Linear(16, VOCABULARY, bias=False)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
        self.sequences = 0
        self.dies_after: int | None = None

    def forward(self, inputs: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        self.sequences += len(inputs)
        if self.dies_after is not None and self.sequences > self.dies_after:
            raise Died
        return self.head(torch.tanh(self.embedding(inputs)))


class Died(Exception):
    """Raised to end the thread of a worker."""


@dataclass
class Metrics:
    """Records the values that a validator reports."""

    reported: list[tuple[int, str, float]] = field(default_factory=list)
    ntokens_since_last_log: int = 0
    time_last_log: float = 0.0

    def enter(self, state: object, step: int) -> None:
        pass

    def log_validation(self, loss: float, step: int) -> None:
        pass

    def log_held_out_loss(self, name: str, loss: float, step: int) -> None:
        self.reported.append((step, name, loss))


@dataclass
class Worker:
    model: Toy
    loop: OuterLoop | None
    validator: AnchorValidator
    anchors: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    """After each validated step."""

    def losses(self, name: str) -> dict[int, float]:
        return {step: loss for step, kind, loss in self.validator.metrics_processor.reported if kind == name}


@dataclass(frozen=True)
class Case:
    workers: int = 1
    interval: int = 4
    freq: int = 2
    steps: int = 12
    fragments: int = 1
    delay: int = 0
    bf16: bool = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random text."""
    folder = tmp_path_factory.mktemp("held_out")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    random = np.random.default_rng(1)
    writer = SplitWriter(folder, "validation", VOCABULARY)
    for length in random.integers(3, 40, size=12):
        writer.append(random.integers(2, VOCABULARY, size=length))
    sizes = {"validation": writer.close()}
    Prepared(
        folder=folder,
        corpus="",
        corpus_sha256="c0" * 32,
        tokenizer_sha256=tokenizer_sha256(folder / "tokenizer"),
        vocab_size=VOCABULARY,
        bos_id=0,
        eos_id=1,
        skipped=0,
        first_skipped=None,
        sizes=sizes,
    ).write()
    return folder


def make_worker(folder: Path, case: Case, worker: int = 0, transport: Transport | None = None) -> Worker:
    """`transport`: None for a model without an anchor."""
    model = Toy().to(device_type())
    names = list(dict(model.named_parameters()))
    loop = None
    if transport is not None:
        loop = OuterLoop(
            dict(model.named_parameters()),
            lambda anchor: torch.optim.SGD(anchor.values(), lr=0.7, momentum=0.6, nesterov=True),
            transport,
            identity=WorkerIdentity(worker=worker, workers=case.workers),
            sync_interval=case.interval,
            fragments=[names] if case.fragments == 1 else [[name] for name in names],
            delay=case.delay,
        )
    validator = AnchorValidator(
        AnchorValidator.Config(
            enable=True,
            freq=case.freq,
            last_step=case.steps,
            evaluated=(),
            steps=BATCHES,
            dataloader=HeldOutDataLoader.Config(folders=(str(folder),), sequences=SEQUENCES),
        ),
        parallelism=SimpleNamespace(spmd_backend="partial_dtensor"),
        dp_world_size=1,
        dp_rank=0,
        tokenizer=None,
        parallel_dims=ParallelDims(1, 1, 1, 1, 1, 1, world_size=1, spmd_backend="partial_dtensor"),
        loss_fn=lambda predictions, labels: (cross_entropy(predictions, labels), None),
        validation_context=lambda: torch.autocast(device_type(), torch.bfloat16, enabled=case.bf16),
        metrics_processor=Metrics(),
        seq_len=SEQ_LEN,
        local_batch_size=BATCH,
    )
    validator.context = WorkerContext(outer=loop)
    return Worker(model, loop, validator)


def cross_entropy(predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    flat = predictions.flatten(0, 1)
    return F.cross_entropy(flat.float(), labels.flatten(), reduction="sum", ignore_index=IGNORE_INDEX)


def train(folder: Path, case: Case, group: InProcessGroup, worker: int, change: Callable[[Worker], None]) -> Worker:
    """The steps of one worker, in the order of the trainer."""
    it = make_worker(folder, case, worker, group.transport(worker, device_type()))
    change(it)
    it.validator.validate([it.model], 0)
    it.loop.start(0)
    for step in range(1, case.steps + 1):
        generator = torch.Generator().manual_seed(100 * step + worker)
        for parameter in it.model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.device)
        it.validator.validate_own([it.model], step)
        it.loop.after_inner_step(step, last=step == case.steps)
        if it.validator.should_validate(step):
            it.validator.validate([it.model], step)
            with it.loop.anchor_weights():
                it.anchors[step] = {name: p.detach().clone() for name, p in it.model.named_parameters()}
    return it


def train_all(folder: Path, case: Case, change: Callable[[Worker], None] = lambda worker: None) -> list[Worker]:
    """All workers of a case; without those that died."""
    group = InProcessGroup(case.workers)

    def work(worker: int) -> Worker | None:
        with contextlib.suppress(Died):
            return train(folder, case, group, worker, change)
        return None

    return [worker for worker in run_workers(group, work) if worker is not None]


def alone(folder: Path, case: Case, weights: dict[str, torch.Tensor]) -> float:
    """Returns the loss that a worker without others reports for these weights."""
    worker = make_worker(folder, case)
    worker.model.load_state_dict(weights)
    worker.validator.validate([worker.model], 0)
    assert worker.model.sequences == BATCHES * BATCH
    return worker.losses("validation_loss")[0]


def by_hand(folder: Path, weights: dict[str, torch.Tensor], batches: Sequence[int] = range(BATCHES)) -> float:
    """Returns the loss of some batches, computed in fp64 sequence by sequence."""
    total, tokens = 0.0, 0
    loader = HeldOutDataLoader.Config(folders=(str(folder),), sequences=SEQUENCES).build(
        dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=SEQ_LEN, local_batch_size=1
    )
    for number, (inputs, labels) in enumerate(loader):
        if number // BATCH in batches:
            hidden = weights["embedding.weight"].double().cpu()[inputs["input"][0]].tanh()
            log_shares = (hidden @ weights["head.weight"].double().cpu().T).log_softmax(1)
            counted = labels[0] != IGNORE_INDEX
            total -= float(log_shares[counted, labels[0][counted]].sum())
            tokens += int(counted.sum())
    return total / tokens


CASES = [
    Case(workers=1),
    Case(workers=2),
    Case(workers=4),
    Case(workers=3, bf16=True),
    Case(workers=4, bf16=True),
    Case(workers=3, fragments=2, delay=1),
    Case(workers=2, fragments=2, freq=3),
    Case(workers=11),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_workers_report_what_one_would_alone(folder: Path, case: Case) -> None:
    """To the last bit, whatever the number of workers, also in bf16; and it is the loss of all sequences."""
    workers = train_all(folder, case)
    first = workers[0].losses("validation_loss")
    assert [worker.losses("validation_loss") for worker in workers] == [first] * case.workers
    validated = [step for step in range(case.steps + 1) if step % case.freq == 0 or step == case.steps]
    assert list(first) == validated
    for step, anchor in workers[0].anchors.items():
        assert first[step] == alone(folder, case, anchor), f"step {step}"
        assert first[step] == pytest.approx(by_hand(folder, anchor), rel=2e-3 if case.bf16 else 1e-6), f"step {step}"


def config_of(case: Case) -> Config:
    """As far as it is needed to count, to be resolved."""
    config = base.muloco(base.workers(base.laptop(), case.workers), lr=0.01, outer_lr=0.7, outer_momentum=0.6)
    config.training.local_batch_size, config.training.steps = BATCH, case.steps
    config.training.global_batch_size, config.lr_scheduler.warmup_steps = BATCH * case.workers, 1
    config.validation.sequences, config.validation.freq = SEQUENCES, case.freq
    ft = config.fault_tolerance
    ft.transport, ft.sync_steps, ft.num_fragments = "in_process", case.interval, case.fragments
    ft.fragment_sync_delay = case.delay
    return config


@pytest.mark.parametrize("case", CASES, ids=str)
def test_workers_compute_as_much_as_is_planned(folder: Path, case: Case) -> None:
    computed = [worker.model.sequences for worker in train_all(folder, case)]
    assert computed == [validated_sequences(resolve(config_of(case)), worker) for worker in range(case.workers)]


def test_without_an_anchor_every_validation_is_of_the_whole_set(folder: Path) -> None:
    """Plain training, and GPA, whose workers validate their own averages."""
    case = Case(freq=5)
    worker = make_worker(folder, case)
    for step in range(case.steps + 1):
        worker.validator.validate_own([worker.model], step)
        worker.validator.validate([worker.model], step)
    assert worker.model.sequences == 4 * BATCHES * BATCH
    assert list(worker.losses("validation_loss")) == [0, 5, 10, 12] and not worker.losses("local_validation_loss")
    for workers, method, optimizer in ((1, "none", "AdamW"), (2, "gpa", "GPA")):
        config = config_of(replace(case, workers=workers))
        config.fault_tolerance.semi_sync_method, config.optimizer.name = method, optimizer
        config.outer_optimizer = OuterOptimizer()
        assert validated_sequences(resolve(config)) == worker.model.sequences


def test_an_anchor_is_validated_once(folder: Path) -> None:
    """Four workers: in a window of two validations each computes a quarter of the set for the anchor and a quarter for
    its own weights, where each on its own would compute the whole set four times."""
    windows = 3
    case = Case(workers=4, interval=4, freq=2, steps=4 * windows)
    for worker in train_all(folder, case):
        assert worker.model.sequences == (1 + 2 * windows) * BATCHES * BATCH // 4
        losses = worker.losses("validation_loss")
        assert losses[6] == losses[4] != losses[8], "nothing moves the anchor between two outer steps"


@pytest.mark.parametrize("workers", [1, 3, 4, 11])
def test_own_weights_are_validated_before_outer_steps_on_sequences_of_their_own(folder: Path, workers: int) -> None:
    before: dict[tuple[int, int], dict[str, torch.Tensor]] = {}

    def remember_own(worker: Worker) -> None:
        validate_own = worker.validator.validate_own

        def remember(model_parts: list[nn.Module], step: int) -> None:
            state = {name: p.detach().clone() for name, p in worker.model.named_parameters()}
            before[worker.loop.membership.identity.worker, step] = state
            validate_own(model_parts, step)

        worker.validator.validate_own = remember

    seen = set()
    for number, worker in enumerate(train_all(folder, Case(workers=workers, steps=10), remember_own)):
        own = worker.losses("local_validation_loss")
        batches = own_batches(BATCHES, number, workers)
        assert list(own) == [4, 8, 10]
        for step, loss in own.items():
            assert loss == pytest.approx(by_hand(folder, before[number, step], batches), rel=1e-6)
        seen |= set(batches)
    assert seen == set(range(BATCHES))


@pytest.mark.parametrize("computed", [0, 2])
def test_the_others_compute_what_a_lost_worker_does_not(folder: Path, computed: int) -> None:
    """It dies in its validation of the anchor after the first outer step, before any and after some of its batches."""

    def change(worker: Worker) -> None:
        if worker.loop.membership.identity.worker == 1:
            worker.model.dies_after = 3 * 4 + computed  # its shares of the first anchor, of its own weights, of this

    case = Case(workers=3, steps=4)
    survivors = train_all(folder, case, change)
    assert len(survivors) == 2
    for worker in survivors:
        assert worker.losses("validation_loss")[4] == alone(folder, case, worker.anchors[4])


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [b""],
        [b"<html>not found</html>"],
        [b"[[0, 1.0]]"],
        [b'[[0, 1.0, "2"]]'],
        [pack({BATCHES: (1.0, 2)})],
        [pack({-1: (1.0, 2)})],
        [pack({0: (1.0, -2)})],
    ],
)
def test_what_cannot_be_used_is_computed(folder: Path, answer: list[bytes]) -> None:
    def change(worker: Worker) -> None:
        if worker.loop.membership.identity.worker == 0:
            worker.loop.membership.collect = lambda name, patience: answer

    case = Case(workers=2, steps=4)
    for worker in train_all(folder, case, change):
        assert worker.losses("validation_loss")[4] == alone(folder, case, worker.anchors[4])


@pytest.mark.parametrize("joined", [False, True])
def test_a_worker_alone_waits_for_nobody(folder: Path, joined: bool) -> None:
    """As one that makes up for a validation that was due when it was stopped, or has just joined the others."""
    worker = make_worker(folder, Case(workers=2), 0, InProcessGroup(2).transport(0, device_type()))
    worker.loop.membership.collect = partial(pytest.fail, "nobody else validates")
    if joined:
        worker.loop.membership.members = [1]
    worker.validator.validate([worker.model], 2, alone=not joined)
    assert worker.losses("validation_loss") == {2: alone(folder, Case(), worker.model.state_dict())}


@pytest.mark.parametrize("places", range(1, 20))
def test_every_batch_is_one_workers(places: int) -> None:
    counted = Counter(batch for place in range(places) for batch in shared_batches(12, place, places))
    assert counted == dict.fromkeys(range(12), 1)
    own = [own_batches(12, worker, places) for worker in range(places)]
    assert all(own) and set().union(*own) == set(range(12))


def test_losses_travel_without_a_change() -> None:
    losses = {0: (0.1 + 0.2, 3), 7: (1e-30, 0), 3: (float("inf"), 5), 4: (123456.789, 2048)}
    assert unpack(pack(losses), batches=8) == losses
    assert mean(losses) == float("inf")


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"null", b"[1]", b"[[0, 1.0]]", b"[[[], 1.0, 2]]", b"[[true, 1.0, 2]]", b"[[0, 1.0, 2.0]]"]
    + [b"[[8, 1.0, 2]]", b"[[-1, 1.0, 2]]", b"[[0, 1.0, -2]]", b"[[0, %s, 2]]" % (b"1" * 400), b"[" * 100_000],
    ids=range(13),
)
def test_what_are_no_losses_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(data, batches=8)


def test_the_mean_does_not_depend_on_the_order() -> None:
    losses = {0: (2.0**53, 1), 1: (1.0, 1), 2: (1.0, 2)}  # 2^53 + 1 is no number of fp64
    assert mean(losses) == mean(dict(reversed(losses.items()))) == (2**53 + 2) / 4


@pytest.mark.parametrize("workers", [1, 2, 4, 8, 16])
def test_validation_takes_less_than_a_twentieth_at_the_papers_settings(workers: int) -> None:
    config = base.muloco(base.workers(base.paper("150M"), workers), lr=0.01, outer_lr=0.7, outer_momentum=0.6)
    config.training.global_batch_size = 512
    resolved = resolve(config)
    assert 0.04 < validation_share(resolved) < 0.05
    window = 2 * 1024 / workers  # the anchor and the workers' own weights, each once
    assert validation_share(resolved) == pytest.approx(window / (window + 3 * 512 * 30 / workers), rel=0.1)


@pytest.mark.parametrize(("freq", "interval"), [(4, 6), (7, 10), (30, 10)])
@pytest.mark.parametrize("steps", [200, 997, 10**12])
def test_a_long_run_is_counted_by_its_windows(freq: int, interval: int, steps: int) -> None:
    """One worker of four validates a quarter of the batches with its own weights where an outer step follows, and a
    quarter with every anchor that has moved since the last validation."""
    config = base.muloco(base.workers(base.paper("150M"), 4), lr=0.01, outer_lr=0.7, outer_momentum=0.6)
    config.training.steps, config.validation.freq, config.fault_tolerance.sync_steps = steps, freq, interval
    config.lr_scheduler.warmup_steps = 1
    counted = min(steps, 2 * freq * interval + steps % (freq * interval))  # the windows repeat after freq x interval
    passes, anchor = 0, 0
    for step in range(1, counted + 1):
        if step % freq == 0 or step == counted:
            moved = step if step == counted else step // interval * interval
            passes += (step % interval == 0 or step == counted) + (moved > anchor)
            anchor = moved
    one = sum(
        (step % interval == 0) + (step // interval > (step - freq) // interval)
        for step in range(0, freq * interval, freq)
    )
    passes += (steps - counted) // (freq * interval) * one
    assert validated_sequences(resolve(config)) == 1024 + 256 * passes
