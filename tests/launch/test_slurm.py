"""Where the workers of a run go in a SLURM job, and with which words they get there."""

import json
import re

import pytest

from muloco.errors import UserError
from muloco.launch.placement import allocation as allocation_module
from muloco.launch.placement import controller
from muloco.launch.placement.allocation import PORTS, Allocation, Node, current_allocation, read_cores
from muloco.launch.placement.controller import ask_again
from muloco.launch.placement.node import MARK, choose_devices, look, read_count
from muloco.launch.placement.slurm import place_in_job
from muloco.settings.config import Config


def config(workers: int, ranks: int = 1, process_group: str = "auto", products: str = "auto") -> Config:
    config = Config()
    config.optimizer.symmetric_products = products
    config.fault_tolerance.group_size = workers
    config.fault_tolerance.process_group = process_group
    config.parallelism.data_parallel_shard_degree = ranks
    return config


def job(*devices: int, cores: int = 16, number: int = 7, container: tuple[str, ...] = ()) -> Allocation:
    nodes = [
        Node(name=f"n{i}", address=f"10.0.0.{i}", interface="ib0", cores=cores, devices=count)
        for i, count in enumerate(devices)
    ]
    return Allocation(job=number, nodes=tuple(nodes), container=container)


def placed(config: Config, job: Allocation, **environment: str) -> list[tuple[str, str]]:
    """Nodes and devices by worker."""
    starts = [host.start for host in place_in_job(config, job, environment=environment).hosts]
    return [(next(w for w in start if "--nodelist" in w).split("=")[1], start[-1]) for start in starts]


def test_each_rank_has_a_device_of_its_own() -> None:
    assert placed(config(3, 4), job(8, 8)) == [("n0", "0,1,2,3"), ("n0", "4,5,6,7"), ("n1", "0,1,2,3")]
    assert placed(config(2, 4), job(2, 2, 2, 2)) == [("n0,n1", "0,1"), ("n2,n3", "0,1")]
    placement = place_in_job(config(2, 4), job(2, 2, 2, 2), environment={})
    assert [(s.address, s.nodes, s.interface) for s in placement.hosts] == [
        ("10.0.0.0", 2, "ib0"),
        ("10.0.0.2", 2, "ib0"),
    ]
    assert placement.process_group == "nccl"
    assert [host.environment["OMP_NUM_THREADS"] for host in placement.hosts] == ["8", "8"]
    assert placement.description == "2 workers of 4 ranks on 4 of 4 nodes of job 7, 2 GPUs a node, nccl"
    assert placement.lighthouse.address == "10.0.0.0" and "--nodelist=n0" in placement.lighthouse.start


def test_an_empty_list_of_devices_asks_for_the_cpu() -> None:
    assert placed(config(3, 4), job(8, 8), CUDA_VISIBLE_DEVICES="") == [("n0", ""), ("n0", ""), ("n1", "")]
    assert place_in_job(config(2), job(8), environment={"CUDA_VISIBLE_DEVICES": ""}).process_group == "gloo"


def test_workers_of_one_rank_share_devices() -> None:
    placement = place_in_job(config(5), job(2, 2), environment={})
    assert placement.process_group == "gloo" and "2 GPUs a node, shared, gloo" in placement.description
    assert placed(config(5), job(2, 2)) == [("n0", "0"), ("n0", "1"), ("n0", "0"), ("n1", "0"), ("n1", "1")]


def test_without_devices_all_nodes_are_used_and_ranks_share_the_cores() -> None:
    assert placed(config(4), job(0, 0)) == [("n0", ""), ("n0", ""), ("n1", ""), ("n1", "")]
    placement = place_in_job(config(4), job(0, 0), environment={})
    assert [host.environment for host in placement.hosts] == [
        {"OMP_NUM_THREADS": "8"}
    ] * 4 and placement.process_group == "gloo"
    assert (
        place_in_job(config(1), job(0), environment={"OMP_NUM_THREADS": "3"}).hosts[0].environment["OMP_NUM_THREADS"]
        == "3"
    )


@pytest.mark.parametrize(
    ("chosen", "where", "message"),
    [
        (
            config(3, 4),
            job(4, 4),
            "3 workers of 4 ranks need 3 nodes of 4 GPUs, this job has 2; ask for more with --nodes",
        ),
        (config(3, process_group="nccl"), job(1, 1), "3 workers need 3 nodes of 1 GPUs, this job has 2"),
        (config(1, process_group="nccl"), job(0), "nccl needs CUDA devices, and this job has none; use gloo"),
        (
            config(1, products="triton"),
            job(0),
            "symmetric_products triton needs CUDA devices, and this job has none; use auto or matmul",
        ),
        (config(2), job(4, 8), "the nodes of this job differ in GPUs: n0 4, n1 8"),
        (config(1, 3), job(2, 2), "a worker of 3 ranks does not fill whole nodes of 2 devices"),
    ],
)
def test_what_does_not_fit_is_refused(chosen: Config, where: Allocation, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        place_in_job(chosen, where, environment={})


def test_jobs_that_may_share_a_node_have_ports_of_their_own() -> None:
    def ports(number: int) -> set[int]:
        return {job(8, number=number).port(index) for index in range(PORTS)}

    for first in (1, 351, 10_000_001):
        neighbours = [ports(number) for number in range(first, first + 300)]
        assert len(set.union(*neighbours)) == 300 * PORTS
        assert min(set.union(*neighbours)) >= 10000 and max(set.union(*neighbours)) < 32768
    placement = place_in_job(config(2, 4), job(2, 2, 2, 2), environment={})
    assert len({placement.lighthouse.port, *(host.port for host in placement.hosts)}) == 3


def test_a_container_comes_before_each_command() -> None:
    placement = place_in_job(config(1), job(1, container=("apptainer", "exec", "--nv", "x.sif")), environment={})
    words = placement.hosts[0].start
    assert words[-9:] == (
        "apptainer",
        "exec",
        "--nv",
        "x.sif",
        "python",
        "-m",
        "muloco.launch.placement.node",
        "run",
        "0",
    )
    assert placement.hosts[0].python == "python" and placement.lighthouse.start[-4:] == words[-9:-5]


def test_cores_node_by_node() -> None:
    assert read_cores("16(x2),8,4(x3)") == [16, 16, 8, 4, 4, 4]
    assert read_cores("72") == [72]


def test_outside_of_a_job_and_without_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_allocation({}) is None
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="this is SLURM job 12, but there is no srun here"):
        current_allocation({"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[1-2]"})


TWO_NODES = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_CPUS_PER_NODE": "4(x2)"}


def seen(name: str, address: str, interface: str = "eth0") -> str:
    """What a node answers."""
    return MARK + json.dumps({"name": name, "address": address, "interface": interface, "devices": 0}) + "\n"


def answers(monkeypatch: pytest.MonkeyPatch, *, look: str, names: str = "n1\nn2\n") -> None:
    """Those of scontrol and of the program on the nodes."""
    monkeypatch.setattr(allocation_module.shutil, "which", lambda name: name)
    monkeypatch.setattr(allocation_module, "_output", lambda words: names if words[0] == "scontrol" else look)


def test_addresses_that_cannot_reach_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, look=seen("n1", "127.0.1.1", "lo") + seen("n2", "10.0.0.2"))
    with pytest.raises(UserError, match=r"n1 127.0.1.1 \(lo\), n2 10.0.0.2 \(eth0\); name the interface to use"):
        current_allocation(TWO_NODES)


BANNER = "*** maintenance on Monday ***\n{not json\n"


def test_what_a_site_prints_beside_the_answers_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    look = BANNER + seen("n2", "10.0.0.2") + f"module loaded {seen('n1', '10.0.0.1')}{BANNER}"
    answers(monkeypatch, names=f"{BANNER}n1\nn2\n", look=look)
    found = current_allocation(TWO_NODES)
    assert found is not None and [(node.name, node.address, node.cores) for node in found.nodes] == [
        *(("n1", "10.0.0.1", 4), ("n2", "10.0.0.2", 4))
    ]


@pytest.mark.parametrize(
    ("names", "look", "message"),
    [
        ("n1\nn2\n", BANNER, "nodes of this job have not answered: n1, n2"),
        ("n1\n", "", "has 2 nodes, but `scontrol show hostnames` answers 'n1'"),
    ],
)
def test_answers_that_are_not_whole_are_refused(
    monkeypatch: pytest.MonkeyPatch, names: str, look: str, message: str
) -> None:
    answers(monkeypatch, names=names, look=look)
    with pytest.raises(UserError, match=message):
        current_allocation(TWO_NODES)


@pytest.mark.parametrize(
    ("gpus", "count"), [("", 0), ("4", 4), ("gpu:8", 8), ("gpu:a100:2,gpu:h100:1", 3), ("gpu:a100:4(S:0-1)", 4)]
)
def test_gpus_of_a_node(gpus: str, count: int) -> None:
    assert read_count(gpus) == count


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("reason", "times"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", 3),
        ("Batch job submission failed: Socket timed out on send/recv operation", 3),
        ("SLURM did not answer within 60 s", 3),
        ("invalid partition specified: gpu", 1),
    ],
)
def test_a_controller_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch, reason: str, times: int) -> None:
    monkeypatch.setattr(controller, "time", Clock())
    asked = []

    def ask() -> str:
        asked.append(reason)
        if len(asked) < 3:
            raise UserError(reason)
        return "the answer"

    if times == 3:
        assert ask_again(ask, UserError) == "the answer"
    else:
        with pytest.raises(UserError, match=reason):
            ask_again(ask, UserError)
    assert len(asked) == times


def test_a_controller_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(controller, "time", clock)

    def ask() -> str:
        raise UserError("Unable to contact slurm controller")

    with pytest.raises(UserError):
        ask_again(ask, UserError)
    assert controller.BUSY_SECONDS < clock.now < controller.BUSY_SECONDS + 2 * controller.PAUSE_SECONDS


def test_a_node_tells_its_address_towards_the_others() -> None:
    here = {"SLURMD_NODENAME": "n1", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1", "SLURM_GPUS_ON_NODE": "4"}
    found = {"name": "n1", "address": "127.0.0.1", "interface": "lo", "devices": 4}
    assert look(here) == look({**here, "GLOO_SOCKET_IFNAME": "lo"}) == found


def test_an_interface_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        look({"SLURMD_NODENAME": "n1", "GLOO_SOCKET_IFNAME": "ib7"})
    assert stop.value.code == 2
    assert (
        "no network interface with an IPv4 address is GLOO_SOCKET_IFNAME ib7; there are lo (127.0.0.1)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [({"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, "6,7"), ({}, "2,3"), ({"CUDA_VISIBLE_DEVICES": "a,b,GPU-c,d"}, "GPU-c,d")],
)
def test_devices_are_chosen_among_those_of_the_job(visible: dict[str, str], chosen: str) -> None:
    environment = dict(visible)
    choose_devices([2, 3], environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": chosen}
    choose_devices([], environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": ""}
