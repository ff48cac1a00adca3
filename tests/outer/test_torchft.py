"""Our outer loop over torchft: workers are threads, the lighthouse is real; torchft's own DiLoCo is the oracle."""

import copy
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore
from torchft.local_sgd import DiLoCo
from torchft.manager import Manager
from torchft.process_group import ProcessGroupGloo

from muloco.launch.lighthouse import start_lighthouse
from muloco.outer import OuterLoop, TransportError
from muloco.outer.in_process import InProcessGroup
from muloco.outer.optimizer import build_outer_optimizer
from muloco.outer.torchft import TorchftTransport

from .workers import run_workers

LR, MOMENTUM, INTERVAL, STEPS = 0.5, 0.9, 4, 12
TEN_SECONDS = timedelta(seconds=10)


@pytest.fixture
def lighthouse(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """Starts a lighthouse for so many workers; returns its address."""
    children = []
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

    def start(workers: int) -> str:
        child, address = start_lighthouse(workers=workers, log=tmp_path / "lighthouse.log")
        children.append(child)
        return address

    yield start
    for child in children:
        child.end(grace_seconds=1)


torch.manual_seed(3)
MODEL = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 1, bias=False))


def train_step(module: torch.nn.Module, optimizer: torch.optim.Optimizer, worker: int, step: int) -> None:
    generator = torch.Generator().manual_seed(100 * worker + step)
    optimizer.zero_grad()
    module(torch.randn(8, 5, generator=generator)).square().mean().backward()
    optimizer.step()


def train_ours(worker: int, transport) -> tuple[list[torch.Tensor], list[int]]:
    """Final parameters and the digests of the syncs."""
    module = copy.deepcopy(MODEL)
    inner = torch.optim.SGD(module.parameters(), lr=0.1)
    outer = partial(build_outer_optimizer, class_name="sgd", lr=LR, momentum=MOMENTUM, nesterov=True)
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    loop = OuterLoop(parameters, outer, transport, worker=worker, sync_interval=INTERVAL)
    syncs = []
    for step in range(1, STEPS + 1):
        train_step(module, inner, worker, step)
        syncs.append(loop.after_inner_step(step))
    loop.close()
    return list(parameters.values()), [sync.digest for sync in syncs if sync]


def torchft_transport(worker: int, workers: int, address: str, *, run: str = "run") -> TorchftTransport:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    transport = TorchftTransport(
        run=run,
        worker=worker,
        workers=workers,
        lighthouse=address,
        rank=0,
        ranks=1,
        store=("127.0.0.1", store.port),
        process_group="gloo",
        quorum_timeout=TEN_SECONDS,
        exchange_timeout=TEN_SECONDS,
    )
    transport.kept = store
    return transport


def train_torchft(worker: int, workers: int, address: str) -> list[torch.Tensor]:
    """The same by torchft's DiLoCo."""
    module = copy.deepcopy(MODEL)
    inner = torch.optim.SGD(module.parameters(), lr=0.1)
    outer = torch.optim.SGD(module.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(TEN_SECONDS),
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
    with DiLoCo(manager, [module], inner, outer, sync_every=INTERVAL):
        for step in range(1, STEPS + 1):
            train_step(module, inner, worker, step)
    manager.shutdown(wait=False)
    return [parameter.detach() for parameter in module.parameters()]


@pytest.mark.parametrize("workers", [2, 3])
def test_equals_torchfts_diloco_and_in_process_bit_for_bit(workers: int, lighthouse) -> None:
    group = InProcessGroup(workers)
    in_process = run_workers(group, lambda worker: train_ours(worker, group.transport(worker)))
    address = lighthouse(workers)
    with ThreadPoolExecutor(workers) as pool:
        ours = list(pool.map(lambda w: train_ours(w, torchft_transport(w, workers, address)), range(workers)))
        oracle = list(pool.map(lambda w: train_torchft(w, workers, address), range(workers)))
    for worker in range(workers):
        assert ours[worker][1] == in_process[0][1] and len(ours[worker][1]) == STEPS // INTERVAL
        for mine, local, theirs in zip(ours[worker][0], in_process[worker][0], oracle[worker], strict=True):
            assert torch.equal(mine, local)
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_a_round_waits_for_all_workers_and_says_so(lighthouse) -> None:
    transport = torchft_transport(0, 2, lighthouse(2))
    transport._manager._quorum_timeout = timedelta(seconds=1)
    with pytest.raises(TransportError, match="sync after step 7: the 2 workers did not meet"):
        transport.open(7)
    transport.close()


def test_a_vote_against_is_heard_by_all(lighthouse) -> None:
    address = lighthouse(2)

    def vote(worker: int) -> bool:
        transport = torchft_transport(worker, 2, address)
        round = transport.open(1)
        answer = round.commit(ok=worker == 0)
        transport.close()
        return answer

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(vote, range(2))) == [False, False]
