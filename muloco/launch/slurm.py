"""Placing a run over the nodes of a SLURM job."""

from collections.abc import Mapping

from muloco.errors import UserError
from muloco.launch.allocation import Allocation
from muloco.launch.layout import Layout, Place, even_layout, layout
from muloco.launch.placement import Placement, Station, allocator_settings, refuse_what_needs_cuda
from muloco.settings.config import Config


def place_in(config: Config, allocation: Allocation, *, environment: Mapping[str, str]) -> Placement:
    """Spreads the workers over the GPUs of a job, or over its cores where it has none.

    Args:
        config: resolved.
        allocation: the job.
        environment: of this process. An empty CUDA_VISIBLE_DEVICES: on the CPU, but each rank in the place of a GPU.

    Raises:
        UserError: the job does not have what the run needs.
    """
    workers, ranks = config.worker_processes, config.ranks_per_worker
    chosen = config.fault_tolerance.process_group
    per_node = _devices(allocation)
    on_cpu = per_node == 0 or environment.get("CUDA_VISIBLE_DEVICES") == ""
    if on_cpu:
        refuse_what_needs_cuda(config, "this job")
    count = len(allocation.nodes)
    if per_node:
        found = layout(workers=workers, ranks=ranks, per_node=per_node)
    else:
        found = even_layout(workers=workers, ranks=ranks, nodes=count)
    shared = found.nodes > count and ranks == 1 and chosen != "nccl"
    if shared:
        found = even_layout(workers=workers, ranks=1, nodes=count)
    if found.nodes > count:
        raise UserError(
            f"{_what(config)} need {found.nodes} nodes of {per_node} GPUs, this job has {count}; ask for more with "
            "--nodes, or lower fault_tolerance.group_size or parallelism.*_degree"
        )
    group = "gloo" if on_cpu or shared else "nccl"
    devices = "CPU" if on_cpu else f"{per_node} GPUs a node" + (", shared" if shared else "")
    group = group if chosen == "auto" else chosen
    common = {} if on_cpu else allocator_settings(environment)
    return Placement(
        environments=tuple(
            {**common, "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS") or str(_threads(allocation, found, place))}
            for place in found.places
        ),
        stations=tuple(
            _station(
                allocation,
                place,
                worker=worker,
                devices=[] if on_cpu else [device % per_node for device in place.devices],
            )
            for worker, place in enumerate(found.places)
        ),
        lighthouse=Station(
            start=allocation.start(range(1), name="lighthouse"),
            python=allocation.python,
            host=allocation.nodes[0].address,
            port=allocation.port(0),
        ),
        process_group=group,
        description=f"{_what(config)} on {found.nodes} of {count} nodes of job {allocation.job}, {devices}, {group}",
    )


def _devices(allocation: Allocation) -> int:
    """GPUs of each node."""
    counts = {node.devices for node in allocation.nodes}
    if len(counts) > 1:
        which = ", ".join(f"{node.name} {node.devices}" for node in allocation.nodes)
        raise UserError(f"the nodes of this job differ in GPUs: {which}; ask for --gpus-per-node")
    return counts.pop()


def _station(allocation: Allocation, place: Place, *, worker: int, devices: list[int]) -> Station:
    nodes = allocation.nodes[place.nodes.start : place.nodes.stop]
    if len({node.interface for node in nodes}) > 1:
        which = ", ".join(f"{node.name} {node.interface}" for node in nodes)
        raise UserError(f"the nodes of worker {worker} differ in network interfaces: {which}; set GLOO_SOCKET_IFNAME")
    chosen = ",".join(map(str, devices))
    return Station(
        start=(
            *allocation.start(place.nodes, name=f"worker-{worker:03d}"),
            *(allocation.python, "-m", "muloco.launch.node", "run", chosen),
        ),
        python=allocation.python,
        host=nodes[0].address,
        port=allocation.port(1 + worker),
        interface=nodes[0].interface,
        nodes=len(nodes),
    )


def _threads(allocation: Allocation, found: Layout, place: Place) -> int:
    """Of each rank of a worker, so that all ranks on its nodes share the cores."""
    return max(1, min(allocation.nodes[node].cores // found.ranks_on(node) for node in place.nodes))


def _what(config: Config) -> str:
    workers, ranks = config.workers, config.ranks_per_worker
    return f"{workers} worker{'s' * (workers > 1)} of {ranks} rank{'s' * (ranks > 1)}"
