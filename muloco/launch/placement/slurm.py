"""Placing a run over the nodes of a SLURM job."""

from collections.abc import Mapping

from muloco.errors import UserError
from muloco.launch.placement.allocation import Allocation
from muloco.launch.placement.layout import WorkerLayout, even_layout, layout
from muloco.launch.placement.spec import (
    HostSpec,
    Placement,
    allocator_settings,
    described,
    refuse_what_needs_cuda,
    threads,
)
from muloco.settings.config import ResolvedConfig


def place_in_job(config: ResolvedConfig, allocation: Allocation, *, environment: Mapping[str, str]) -> Placement:
    """Spreads the workers over the GPUs of a job, or over its cores where it has none.

    Args:
        environment: of this process. An empty CUDA_VISIBLE_DEVICES: on the CPU, but each rank in the place of a GPU.

    Raises:
        UserError: the job does not have what the run needs.
    """
    workers, ranks = config.worker_processes, config.ranks_per_worker
    chosen = config.fault_tolerance.process_group
    what = described(config)
    per_node = _devices(allocation)
    on_cpu = per_node == 0 or environment.get("CUDA_VISIBLE_DEVICES") == ""
    if on_cpu:
        refuse_what_needs_cuda(config, "this job")
    count = len(allocation.nodes)
    if per_node:
        spread = layout(workers=workers, ranks=ranks, per_node=per_node)
    else:
        spread = even_layout(workers=workers, ranks=ranks, nodes=count)
    shared = spread.nodes > count and ranks == 1 and chosen != "nccl"
    if shared:
        spread = even_layout(workers=workers, ranks=1, nodes=count)
    if spread.nodes > count:
        raise UserError(
            f"{what} need {spread.nodes} nodes of {per_node} GPUs, this job has {count}; ask for more with "
            "--nodes, or lower fault_tolerance.group_size or parallelism.*_degree"
        )
    group = "gloo" if on_cpu or shared else "nccl"
    devices = "CPU" if on_cpu else f"{per_node} GPUs a node" + (", shared" if shared else "")
    group = group if chosen == "auto" else chosen
    common = {} if on_cpu else allocator_settings(environment)
    hosts = []
    for number, worker in enumerate(spread.workers):
        shares = ((allocation.nodes[node].cores, spread.ranks_on(node)) for node in worker.nodes)
        each = min((threads(environment, cores=cores, ranks=own) for cores, own in shares), key=int)
        local = [] if on_cpu else [device % per_node for device in worker.devices]
        own = common | {"OMP_NUM_THREADS": each}
        hosts.append(_host(allocation, worker, number=number, devices=local, environment=own))
    return Placement(
        hosts=tuple(hosts),
        lighthouse=HostSpec(
            start=allocation.start(range(1), name="lighthouse"),
            python=allocation.python,
            address=allocation.nodes[0].address,
            port=allocation.port(0),
        ),
        process_group=group,
        description=f"{what} on {spread.nodes} of {count} nodes of job {allocation.job}, {devices}, {group}",
    )


def _devices(allocation: Allocation) -> int:
    """GPUs of each node."""
    counts = {node.devices for node in allocation.nodes}
    if len(counts) > 1:
        which = ", ".join(f"{node.name} {node.devices}" for node in allocation.nodes)
        raise UserError(f"the nodes of this job differ in GPUs: {which}; ask for --gpus-per-node")
    return counts.pop()


def _host(
    allocation: Allocation, layout: WorkerLayout, *, number: int, devices: list[int], environment: dict[str, str]
) -> HostSpec:
    nodes = allocation.nodes[layout.nodes.start : layout.nodes.stop]
    if len({node.interface for node in nodes}) > 1:
        which = ", ".join(f"{node.name} {node.interface}" for node in nodes)
        raise UserError(f"the nodes of worker {number} differ in network interfaces: {which}; set GLOO_SOCKET_IFNAME")
    on_node = (allocation.python, "-m", "muloco.launch.placement.node", "run", ",".join(map(str, devices)))
    return HostSpec(
        start=(*allocation.start(layout.nodes, name=f"worker-{number:03d}"), *on_node),
        python=allocation.python,
        address=nodes[0].address,
        port=allocation.port(1 + number),
        interface=nodes[0].interface,
        nodes=len(nodes),
        environment=environment,
    )
