"""GPA with several workers: z is averaged at each sync, x stays each worker's own (PAPER 3.6)."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from muloco.optim import GPA
from muloco.outer import OuterLoop, WorkerIdentity
from muloco.outer.in_process import InProcessGroup
from muloco.settings.outer import OuterOptimizer
from muloco.training.context import Averaging
from muloco.training.outer import build_outer_optimizer
from muloco.training.transfer import WorkerTransfer
from tests.outer.workers import run_workers

WORKERS, INTERVAL, STEPS = 3, 4, 10
MU_X, MU_Y, LR = 0.9, 0.7, 0.05
NAMES = ["0.weight", "0.bias", "2.weight"]
FRAGMENTS = {1: [NAMES], 2: [NAMES[:2], NAMES[2:]]}


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2, bias=False))


def loss(model: nn.Module, values: dict[str, torch.Tensor] | None, worker: int, step: int) -> torch.Tensor:
    batch = torch.randn(5, 6, generator=torch.Generator().manual_seed(100 * worker + step))
    batch, target = batch[:, :4], batch[:, 4:]
    out = model(batch) if values is None else torch.func.functional_call(model, values, (batch,))
    return nn.functional.mse_loss(out, target)


def train(fragments: int, group: InProcessGroup, worker: int) -> dict[str, dict[str, torch.Tensor]]:
    model = build()
    params = dict(model.named_parameters())
    optimizer = GPA([{"params": list(params.values()), "algorithm": "adamw"}], lr=LR, mu_x=MU_X, mu_y=MU_Y)
    averaging = Averaging(optimizer, params)
    loop = OuterLoop(
        averaging.z(),
        partial(build_outer_optimizer, OuterOptimizer(lr=1.0, momentum=0.0)),
        group.transport(worker),
        identity=WorkerIdentity(worker=worker, workers=WORKERS),
        sync_interval=INTERVAL,
        fragments=FRAGMENTS[fragments],
        merging=averaging.moving_z,
    )
    loop.start(0)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss(model, None, worker, step).backward()
        optimizer.step()
        loop.after_inner_step(step, last=step == STEPS)
    loop.close()
    y = {name: param.detach().clone() for name, param in params.items()}
    return {"x": averaging.x(), "y": y, "z": {name: z.clone() for name, z in averaging.z().items()}}


def slowly(fragments: int) -> list[dict[str, dict[str, torch.Tensor]]]:
    """All three points of all workers, as the formulas say, the mean of z at the steps at which a fragment is due."""
    model = build()
    x = [{name: p.detach().clone() for name, p in model.named_parameters()} for _ in range(WORKERS)]
    z = [{name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()} for _ in range(WORKERS)]
    inner = [torch.optim.AdamW(own.values(), lr=LR, betas=(0.9, 0.99), weight_decay=0.0) for own in z]

    def y(worker: int) -> dict[str, torch.Tensor]:
        return {n: (MU_Y * x[worker][n] + (1 - MU_Y) * z[worker][n]).detach() for n in x[worker]}

    for step in range(1, STEPS + 1):
        for worker in range(WORKERS):
            at = {name: value.requires_grad_() for name, value in y(worker).items()}
            gradients = torch.autograd.grad(loss(model, at, worker, step), list(at.values()))
            for own, gradient in zip(z[worker].values(), gradients, strict=True):
                own.grad = gradient
            inner[worker].step()
            x[worker] = {n: MU_X * x[worker][n] + (1 - MU_X) * z[worker][n].detach() for n in x[worker]}
        for index, names in enumerate(FRAGMENTS[fragments]):
            offset = INTERVAL * (index + 1) // fragments
            if step == STEPS or step % INTERVAL == offset % INTERVAL:
                for name in names:
                    mean = torch.stack([own[name].detach() for own in z]).mean(0)
                    for own in z:
                        own[name].data.copy_(mean)
    return [{"x": x[worker], "y": y(worker), "z": z[worker]} for worker in range(WORKERS)]


@pytest.mark.parametrize("fragments", [1, 2])
def test_workers_average_z_and_keep_x(fragments: int) -> None:
    group = InProcessGroup(WORKERS)
    ours = run_workers(group, partial(train, fragments, group))
    expected = slowly(fragments)
    for worker in range(WORKERS):
        for point in "xyz":
            for name in NAMES:
                torch.testing.assert_close(
                    ours[worker][point][name], expected[worker][point][name].detach(), rtol=1e-5, atol=1e-5
                )
    assert all(torch.equal(ours[0]["z"][name], own["z"][name]) for own in ours for name in NAMES)
    assert not torch.equal(ours[0]["x"]["2.weight"], ours[1]["x"]["2.weight"])


class Held:
    """The inner optimizer as a checkpoint sees it."""

    def __init__(self, model: nn.Module, optimizer: GPA):
        self._both = model, optimizer
        self._options = StateDictOptions(flatten_optimizer_state_dict=True)

    def state_dict(self) -> dict[str, Any]:
        return get_optimizer_state_dict(*self._both, options=self._options)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_optimizer_state_dict(*self._both, state, options=self._options)


def test_who_joins_has_the_points_of_the_worker_that_it_joins() -> None:
    """Of the donor's state only z is in the anchor: x comes with the parameters."""

    class Worker:
        step = 0

        def __init__(self) -> None:
            self.model = build()
            self.params = dict(self.model.named_parameters())
            self.optimizer = GPA([{"params": list(self.params.values()), "algorithm": "adamw"}], lr=LR, mu_x=MU_X)
            self.averaging = Averaging(self.optimizer, self.params)
            states = {"optimizer": Held(self.model, self.optimizer), "model": self.model}
            self.transfer = WorkerTransfer(states, trainer=self)
            self.outer = OuterLoop(
                self.averaging.z(),
                partial(build_outer_optimizer, OuterOptimizer(lr=1.0, momentum=0.0)),
                InProcessGroup(1).transport(0),
                identity=WorkerIdentity(),
                sync_interval=INTERVAL,
                merging=self.averaging.moving_z,
            )

        def joined(self, data_position: str | None) -> None:
            pass

        def train(self, steps: range) -> None:
            for self.step in steps:
                self.optimizer.zero_grad()
                loss(self.model, None, 0, self.step).backward()
                self.optimizer.step()
                self.outer.after_inner_step(self.step)

    donor, joiner = Worker(), Worker()
    donor.train(range(1, INTERVAL + 1))
    joiner.outer.restore(joiner.transfer.unpack(donor.transfer.pack(donor.outer.snapshot(own=False))), own=False)
    assert joiner.step == INTERVAL
    for one, other in ((donor.averaging.x(), joiner.averaging.x()), (donor.averaging.z(), joiner.averaging.z())):
        for name in NAMES:
            torch.testing.assert_close(one[name], other[name], rtol=1e-6, atol=1e-6)
    for worker in (donor, joiner):
        worker.train(range(INTERVAL + 1, 2 * INTERVAL + 1))
    for name in NAMES:
        torch.testing.assert_close(donor.params[name], joiner.params[name], rtol=1e-5, atol=1e-5)
