"""torchft's own DiLoCo as the oracle, where its features are ours."""

import copy
from datetime import timedelta

import pytest
import torch
from torch import Tensor, nn
from torchft.local_sgd import DiLoCo
from torchft.manager import Manager
from torchft.process_group import ProcessGroupGloo

from muloco.outer import OuterLoop, QuorumPolicy, WorkerIdentity
from muloco.outer.loop.fragments import by_modules
from muloco.outer.wire.store import loopback_store

from ..over_torchft import connect, in_threads
from ..toy import SECONDS, sgd

LR, MOMENTUM, INTERVAL, STEPS = 0.5, 0.9, 6, 18

torch.manual_seed(3)
MODEL = nn.Sequential(nn.Linear(5, 7), nn.Sequential(nn.Tanh(), nn.Linear(7, 1, bias=False)))
MODULES = {1: [["0", "1"]], 2: [["0"], ["1"]]}


def inner_step(module: nn.Module, optimizer: torch.optim.Optimizer, worker: int, step: int) -> None:
    generator = torch.Generator().manual_seed(100 * worker + step)
    optimizer.zero_grad()
    module(torch.randn(8, 5, generator=generator)).square().mean().backward()
    optimizer.step()


def train_ours(worker: int, workers: int, fragments: int, delay: int, address: str) -> list[Tensor]:
    module = copy.deepcopy(MODEL)
    inner = torch.optim.SGD(module.parameters(), lr=0.5)
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    transport = connect(worker, address, run="ours")
    loop = OuterLoop(
        parameters,
        sgd(LR, MOMENTUM),
        transport,
        identity=WorkerIdentity(worker=worker, workers=workers),
        quorum=QuorumPolicy(quorum_timeout_seconds=SECONDS),
        sync_interval=INTERVAL,
        fragments=by_modules(list(parameters), MODULES[fragments]),
        delay=delay,
    )
    try:
        loop.start(0)
        for step in range(1, STEPS + 1):
            inner_step(module, inner, worker, step)
            loop.after_inner_step(step)
    finally:
        loop.close()
    return list(parameters.values())


def train_theirs(worker: int, workers: int, fragments: int, delay: int, address: str) -> list[Tensor]:
    module = copy.deepcopy(MODEL)
    inner = torch.optim.SGD(module.parameters(), lr=0.5)
    parts = [module] if fragments == 1 else [module[0], module[1]]
    outer = [torch.optim.SGD(part.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True) for part in parts]
    store = loopback_store()
    manager = Manager(
        pg=ProcessGroupGloo(timedelta(seconds=SECONDS)),
        load_state_dict=lambda state: None,
        state_dict=dict,
        min_replica_size=workers,
        use_async_quorum=False,
        init_sync=False,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        lighthouse_addr=address,
        replica_id=f"oracle_{worker:03d}",
        hostname="127.0.0.1",
    )
    with DiLoCo(manager, parts, inner, outer, sync_every=INTERVAL, fragment_sync_delay=delay):
        for step in range(1, STEPS + 1):
            inner_step(module, inner, worker, step)
    manager.shutdown(wait=False)
    return [parameter.detach() for parameter in module.parameters()]


@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("fragments", [1, 2])
@pytest.mark.parametrize("workers", [2, 3])
def test_equals_torchfts_diloco(workers: int, fragments: int, delay: int, lighthouse) -> None:
    addresses = [lighthouse(workers), lighthouse(workers)]
    ours, theirs = (
        in_threads(workers, lambda worker, f=train, a=address: f(worker, workers, fragments, delay, a))
        for train, address in zip((train_ours, train_theirs), addresses, strict=True)
    )
    for worker in range(workers):
        for mine, oracle, start in zip(ours[worker], theirs[worker], MODEL.parameters(), strict=True):
            assert (mine - start).abs().max() > 1e-2
            torch.testing.assert_close(mine, oracle, rtol=1e-6, atol=1e-6)
