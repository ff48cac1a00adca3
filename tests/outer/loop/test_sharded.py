"""Parameters sharded over ranks: the outer loop gives the numbers of the unsharded one. Real gloo processes."""

from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from muloco.outer.in_process import InProcessGroup
from muloco.settings.outer import OuterOptimizer
from muloco.sharding import gather, local, shard_like
from muloco.training.outer import build_outer_optimizer

from ..toy import Case, drift, restore, save, start, train_in_process
from ..workers import run_workers

CASE = Case(workers=2, fragments=2, interval=5, steps=12, delay=1, alpha=0.5)
OPTIMIZERS = {
    "sgd": OuterOptimizer(lr=0.7, momentum=0.9),
    "muon": OuterOptimizer(class_name="muon", lr=0.1, momentum=0.8),
}


def check(rank: int, store: str, world: int) -> None:
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    mesh = init_device_mesh("cpu", (world,))
    for optimizer in OPTIMIZERS:
        check_optimizer(mesh, optimizer)
    dist.destroy_process_group()


def check_optimizer(mesh: DeviceMesh, optimizer: str) -> None:
    """Two workers as threads in every rank: rows are sharded where there are some, unevenly and with empty shards."""
    options = {"build": partial(build_outer_optimizer, OPTIMIZERS[optimizer])}

    def distribute(values: dict) -> dict:
        return {
            name: distribute_tensor(value.clone(), mesh, [Shard(0) if value.ndim else Replicate()], src_data_rank=None)
            for name, value in values.items()
        }

    def train_sharded(group: InProcessGroup, worker: int) -> tuple[dict, list, list]:
        parameters = distribute(start())
        loop = CASE.loop(parameters, group.transport(worker), worker, **options)
        loop.start(0)
        steps = []
        for step in range(1, CASE.steps + 1):
            for name, change in drift(worker, step).items():
                local(parameters[name]).add_(shard_like(change, parameters[name]))
            steps += [(step, sync) for sync in loop.after_inner_step(step, last=step == CASE.steps)]
            if step == 7:  # a part of the state of each rank goes into a fresh loop
                saved = save(loop, parameters)
                parameters = distribute({name: torch.zeros_like(value) for name, value in start().items()})
                loop = CASE.loop(parameters, group.transport(worker), worker, **options)
                restore(saved, loop, parameters)
        return parameters, [(step, sync.fragment, sync.weights) for step, sync in steps], steps

    whole = train_in_process(CASE, **options)
    group = InProcessGroup(CASE.workers)
    results = run_workers(group, partial(train_sharded, group))
    for worker, (parameters, history, syncs) in enumerate(results):
        assert history == whole[worker].history
        for name, expected in whole[worker].parameters.items():
            full = gather(parameters[name])
            if optimizer == "sgd":
                assert torch.equal(full, expected), f"worker {worker}, {name}"
            else:
                torch.testing.assert_close(full, expected, rtol=1e-3, atol=1e-3, msg=f"worker {worker}, {name}")
        for (_, mine), (_, theirs) in zip(syncs, whole[worker].syncs, strict=True):
            for key in ("own_square", "mean_square", "product"):
                summed = torch.tensor(getattr(mine, key), dtype=torch.float64)
                dist.all_reduce(summed)
                assert float(summed) == pytest.approx(getattr(theirs, key), rel=1e-2 if optimizer == "muon" else 1e-5)


@pytest.mark.parametrize("world", [2, 3])
def test_shards_are_stepped_as_the_whole_is(world: int, spawn_ranks) -> None:
    spawn_ranks(check, world, world)
