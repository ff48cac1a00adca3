"""Where workers go on machines of every kind."""

import pytest

from muloco.errors import UserError
from muloco.launch.placement.allocation import Allocation, Node
from muloco.launch.placement.local import place_on_devices
from muloco.launch.placement.slurm import place_in_job
from muloco.settings.config import Config


def config(workers: int, ranks: int = 1, process_group: str = "auto", products: str = "auto") -> Config:
    config = Config()
    config.optimizer.symmetric_products = products
    config.fault_tolerance.group_size = workers
    config.fault_tolerance.process_group = process_group
    config.parallelism.data_parallel_shard_degree = ranks
    return config


def placed(config: Config, devices: int, cores: int = 16, **environment: str):
    return place_on_devices(config, devices=[str(d) for d in range(devices)], cores=cores, environment=environment)


def test_on_the_cpu_workers_share_the_cores() -> None:
    placement = placed(config(2, 4), devices=0, cores=16)
    assert [host.environment for host in placement.hosts] == [{"OMP_NUM_THREADS": "2"}] * 2
    assert placement.process_group == "gloo"
    assert placement.description == "2 workers of 4 ranks on the CPU: 16 cores, 2 threads a rank, gloo"
    assert placed(config(8), devices=0, cores=2).hosts[0].environment == {"OMP_NUM_THREADS": "1"}
    assert placed(config(1), devices=0, OMP_NUM_THREADS="5").hosts[0].environment == {"OMP_NUM_THREADS": "5"}


def test_with_enough_devices_each_rank_has_its_own() -> None:
    placement = placed(config(2, 4), devices=8)
    assert [host.environment["CUDA_VISIBLE_DEVICES"] for host in placement.hosts] == ["0,1,2,3", "4,5,6,7"]
    assert placement.process_group == "nccl"
    assert placed(config(2, process_group="gloo"), devices=8).process_group == "gloo"


def test_visible_devices_keep_their_names() -> None:
    placement = place_on_devices(config(2), devices=["5", "GPU-ab"], cores=4, environment={})
    assert [host.environment["CUDA_VISIBLE_DEVICES"] for host in placement.hosts] == ["5", "GPU-ab"]


def test_workers_of_one_rank_share_devices() -> None:
    placement = placed(config(8), devices=3)
    assert [host.environment["CUDA_VISIBLE_DEVICES"] for host in placement.hosts] == list("01201201")
    assert placement.process_group == "gloo"
    assert placement.description == "8 workers share 3 CUDA devices, gloo"


@pytest.mark.parametrize(
    ("environment", "added"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "NCCL_GRAPH_REGISTER": "0"}),
        ({"NCCL_GRAPH_REGISTER": "1"}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "NCCL_GRAPH_REGISTER": "1"}),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:512"}, {}),
        ({"PYTORCH_CUDA_ALLOC_CONF": ""}, {}),
    ],
)
def test_memory_on_cuda_devices_may_grow_unless_the_user_has_set_the_allocator(
    environment: dict[str, str], added: dict[str, str]
) -> None:
    job = Allocation(job=7, nodes=(Node(name="n", address="10.0.0.1", interface="ib0", cores=16, devices=2),))
    for on_cuda in (placed(config(2), devices=2, **environment), place_in_job(config(2), job, environment=environment)):
        for own in (host.environment for host in on_cuda.hosts):
            assert {k: v for k, v in own.items() if k not in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")} == added
    cpu = environment | {"CUDA_VISIBLE_DEVICES": ""}
    for on_cpu in (placed(config(2), devices=0, **environment), place_in_job(config(2), job, environment=cpu)):
        assert all(set(own) == {"OMP_NUM_THREADS"} for own in (host.environment for host in on_cpu.hosts))


@pytest.mark.parametrize(
    ("chosen", "devices", "message"),
    [
        (config(2, 4), 1, "2 workers of 4 ranks need 8 CUDA devices, this machine has 1"),
        (config(2, process_group="nccl"), 1, "needs a device for each of the 2 workers, this machine has 1; use gloo"),
        (config(2, process_group="nccl"), 0, "needs CUDA devices, and this machine has none; use gloo"),
        (
            config(1, products="triton"),
            0,
            "symmetric_products triton needs CUDA devices, and this machine has none; use auto or matmul",
        ),
    ],
)
def test_what_does_not_fit_is_refused(chosen: Config, devices: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        placed(chosen, devices=devices)
