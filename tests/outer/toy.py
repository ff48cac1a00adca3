"""The problem that the tests of this folder train on: tensors of uneven shapes that drift."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from muloco.outer import OuterLoop, QuorumPolicy, Snapshot, Sync, Transport, WorkerIdentity
from muloco.outer.in_process import InProcessGroup

from . import reference
from .workers import run_workers

SHAPES = {
    "layers.0.wq": (5, 3),
    "layers.0.norm": (7,),
    "layers.1.wq": (4, 3),
    "layers.1.bias": (1, 1),
    "norm.scale": (),
    "output.weight": (3, 11),
}
FRAGMENTS = {
    1: [[*SHAPES]],
    2: [["layers.0.wq", "layers.0.norm", "norm.scale"], ["layers.1.wq", "layers.1.bias", "output.weight"]],
    3: [["layers.0.wq", "layers.0.norm"], ["layers.1.wq", "layers.1.bias"], ["norm.scale", "output.weight"]],
}
SECONDS = 30.0
"""More than any test waits for workers that are there."""


@cache
def _start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def start() -> dict[str, Tensor]:
    """Where every worker begins."""
    return {name: tensor.clone() for name, tensor in _start().items()}


@cache
def drift(worker: int, step: int) -> dict[str, Tensor]:
    """What an inner step adds: of its own for each worker and step."""
    generator = torch.Generator().manual_seed(1000 * worker + step)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def sgd(lr: float, momentum: float = 0.9) -> Callable[[Mapping[str, Tensor]], torch.optim.Optimizer]:
    """Builds the outer optimizer of most tests."""
    return lambda anchor: torch.optim.SGD(anchor.values(), lr=lr, momentum=momentum, nesterov=momentum > 0)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run."""

    workers: int = 2
    fragments: int = 1
    interval: int = 13
    steps: int = 30
    delay: int = 0
    alpha: float = 0.0
    lr: float = 0.7
    momentum: float = 0.9

    def loop(self, parameters: Mapping[str, Tensor], transport: Transport, worker: int, **options) -> OuterLoop:
        settings = {
            "identity": WorkerIdentity(worker=worker, workers=self.workers),
            "quorum": QuorumPolicy(quorum_timeout_seconds=SECONDS),
            "sync_interval": self.interval,
            "fragments": FRAGMENTS[self.fragments],
            "delay": self.delay,
            "alpha": self.alpha,
        }
        build = options.pop("build", sgd(self.lr, self.momentum))
        return OuterLoop(parameters, build, transport, **(settings | options))

    def expected(self, **options) -> reference.Outcome:
        """By the reference."""
        return reference.diloco(
            start(),
            drift,
            workers=self.workers,
            fragments=FRAGMENTS[self.fragments],
            interval=self.interval,
            steps=self.steps,
            delay=self.delay,
            alpha=self.alpha,
            outer=options.pop("outer", None) or reference.Nesterov(self.momentum),
            lr=options.pop("lr", lambda step: self.lr),
            **options,
        )

    def with_(self, **changes) -> "Case":
        return replace(self, **changes)


@dataclass
class Result:
    """What one worker ends with."""

    parameters: dict[str, Tensor]
    loop: OuterLoop
    syncs: list[tuple[int, Sync]]
    """With the inner step after which each came."""
    local: list[dict[str, Tensor]]
    """Parameters after each inner step."""

    @property
    def digests(self) -> list[int]:
        return [sync.digest for _, sync in self.syncs]

    @property
    def history(self) -> list[tuple[int, int, dict[int, int]]]:
        """As `reference.Outcome.syncs`."""
        return [(step, sync.fragment, sync.weights) for step, sync in self.syncs]


def walk(loop: OuterLoop, parameters: dict[str, Tensor], worker: int, steps: Sequence[int], last: int) -> Result:
    """Inner steps of one worker, and what its loop does after each."""
    result = Result(parameters, loop, [], [])
    for step in steps:
        for name, change in drift(worker, step).items():
            parameters[name] += change
        result.syncs += [(step, sync) for sync in loop.after_inner_step(step, last=step == last)]
        result.local.append({name: tensor.clone() for name, tensor in parameters.items()})
    return result


def save(loop: OuterLoop, parameters: Mapping[str, Tensor]) -> tuple[Snapshot, dict[str, Tensor]]:
    """All that a checkpoint holds of a worker, copied."""
    snapshot = loop.snapshot(own=True)
    tensors = {kind: {n: t.clone() for n, t in values.items()} for kind, values in snapshot.tensors.items()}
    return replace(snapshot, tensors=tensors), {name: tensor.clone() for name, tensor in parameters.items()}


def restore(saved: tuple[Snapshot, dict[str, Tensor]], loop: OuterLoop, parameters: Mapping[str, Tensor]) -> None:
    """Into a fresh loop, whose tensors are afterwards those that were saved, no more and no fewer."""
    snapshot, local = saved
    for name, value in local.items():
        parameters[name].copy_(value)
    loop.restore(snapshot, own=True)
    restored = loop.snapshot(own=True)
    assert restored.position == snapshot.position
    for own, theirs in ((restored.tensors, snapshot.tensors), (restored.residuals, snapshot.residuals)):
        assert {kind: set(values) for kind, values in own.items()} == {k: set(v) for k, v in theirs.items()}
        assert all(torch.equal(own[kind][name], theirs[kind][name]) for kind in own for name in own[kind])


def train(case: Case, worker: int, transport: Transport, **options) -> Result:
    """One worker's run from start to end."""
    parameters = start()
    loop = case.loop(parameters, transport, worker, **options)
    loop.start(0)
    return walk(loop, parameters, worker, range(1, case.steps + 1), case.steps)


def train_in_process(case: Case, **options) -> list[Result]:
    """All workers' runs, in this process."""
    group = InProcessGroup(case.workers)
    return run_workers(group, lambda worker: partial(train, case, worker, group.transport(worker), **options)())


def assert_equals_reference(results: Sequence[Result], expected: reference.Outcome, what: object) -> None:
    """All workers alike to the bit, and the reference's numbers to rounding."""
    for worker, result in enumerate(results):
        assert result.digests == results[0].digests, f"{what}: digests of worker {worker}"
        assert result.history == expected.syncs, f"{what}: syncs of worker {worker}"
        anchor = result.loop.snapshot(own=False).tensors["anchor"]
        for name, value in expected.anchor.items():
            assert torch.equal(result.parameters[name], results[0].parameters[name]), f"{what}: {name}, {worker}"
            assert torch.equal(result.parameters[name], anchor[name]), f"{what}: {name} of {worker} is not the anchor"
            torch.testing.assert_close(
                result.parameters[name].double(), value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{what}: {n}: {m}"
            )
