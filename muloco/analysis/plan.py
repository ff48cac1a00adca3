"""Estimates what a run will take before it starts: GPUs, bytes, memory, and hours by the bandwidth of the links."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muloco.analysis.memory import Memory, memory
from muloco.analysis.records.method import variant
from muloco.analysis.wall_clock import WallClock, wall_clock
from muloco.errors import UserError
from muloco.model.flavors import flavor
from muloco.settings.config import ResolvedConfig
from muloco.training.validation_cost import validation_share

if TYPE_CHECKING:
    from muloco.outer.codecs.compression import Layout

ASSUMPTIONS = (
    "Assumptions, which every plan prints: a step is 6 N FLOPs a token; the GPUs reach a given share of their peak "
    "(as mfu_6n in a run's metrics); within a worker communication costs nothing; a run without outer steps, or with "
    "one worker, sends 2 N bytes a step over the link (16-bit gradients, once), as in the paper's own model; several "
    "workers send what their codec makes of the fp32 pseudogradients, both ways. Neither latency nor validation, "
    "evaluation, checkpoints or lost workers are in the times; the share of validation is that of all forward and "
    "backward passes, a backward pass being two forward ones. Memory is that of parameters, gradients, optimizers and "
    "a sync; activations come on top."
)
BANDWIDTHS = (1.0, 10.0, 25.0, 100.0, 400.0, 1600.0, 6400.0)
"""Gbit/s of a worker's link."""
FEW_BANDWIDTHS = (10.0, 100.0, 1600.0)
"""Bandwidths that are shown where the columns of all do not fit beside the names of several runs."""


@dataclass(frozen=True)
class Gpu:
    """A type of GPU, with the figures of its data sheet."""

    flops: float
    """Dense bf16 FLOPs per second."""
    memory: float
    """Memory in bytes."""


GPUS = {
    "A100": Gpu(312e12, 80e9),
    "H100": Gpu(989e12, 80e9),
    "H200": Gpu(989e12, 141e9),
    "B200": Gpu(2250e12, 180e9),
}
PAPER_UTILIZATION = 0.39
"""Share of their peak that H100s reach, which fits the wall-clock figure of the paper."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of one run: its time, traffic and memory."""

    name: str
    look: str
    """Method, K and scale: runs that share them look alike in a picture (`muloco.analysis.palette`)."""
    steps: int
    tokens: int
    gpus: int
    step_seconds: float
    """Compute of an inner step."""
    sync_steps: int
    """Inner steps from one exchange over the link to the next."""
    exchange_bytes: float
    """Bytes that leave a worker for one exchange of the whole model."""
    fragments: int
    delay: int
    memory: Memory
    """Memory of one worker, over all its ranks."""
    state_per_gpu: float
    """Bytes of training state on a GPU between two syncs, of all workers that share the GPU."""
    bytes_per_gpu: float
    """Bytes on a GPU at the peak of a sync. Activations come on top."""
    host_bytes_per_gpu: float
    """Bytes that are kept in host memory instead of on a GPU, for each GPU."""
    fits: bool
    """Whether a GPU has `bytes_per_gpu` of memory."""
    validation_share: float
    """Share of validation in a worker's forward and backward passes, from 0 to 1. The times do not include it."""

    def at(self, gbit_per_second: float) -> WallClock:
        """Returns the time that the run takes on links of this bandwidth."""
        return wall_clock(
            steps=self.steps,
            compute_seconds=self.step_seconds,
            exchange_bytes=self.exchange_bytes,
            gbit_per_second=gbit_per_second,
            sync_steps=self.sync_steps,
            fragments=self.fragments,
            delay=self.delay,
        )

    def gpu_seconds(self, gbit_per_second: float) -> float:
        """Returns the GPU-seconds: the time of the run times its GPUs."""
        return self.at(gbit_per_second).total * self.gpus


def plan(
    config: ResolvedConfig,
    *,
    gpu: str = "H100",
    gpus: int | None = None,
    utilization: float = PAPER_UTILIZATION,
    name: str = "",
) -> Plan:
    """The plan of a run.

    Args:
        config: resolved.
        gpu: a name in `GPUS`.
        gpus: of all workers together, the same number for each rank; None: one for each rank of the config.
        utilization: share of the peak that training reaches.
        name: of the run; empty: the config's.

    Raises:
        UserError: an unknown GPU, or numbers that are not possible.
    """
    if gpu not in GPUS:
        raise UserError(f"--gpu {gpu} is not known; there are {', '.join(GPUS)}")
    if not 0 < utilization <= 1:
        raise UserError(f"--utilization must be above 0 and at most 1; got {utilization:g}")
    ranks = config.worker_processes * config.ranks_per_worker
    gpus = ranks if gpus is None else gpus
    if gpus < 1:
        raise UserError(f"--gpus must be at least 1; got {gpus}")
    if gpus % ranks:
        raise UserError(
            f"--gpus must be a multiple of {ranks}, the worker processes x ranks ({config.worker_processes} x "
            f"{config.ranks_per_worker}) of {name or config.run.name}; got {gpus}"
        )
    size = flavor(config.model.flavor)
    ft = config.fault_tolerance
    apart = config.syncs and config.worker_processes > 1
    layouts = _layouts(config) if config.syncs else []
    whole = memory(config, layouts)
    parallelism = config.parallelism
    shards = parallelism.data_parallel_shard_degree * parallelism.tensor_parallel_degree
    shards *= parallelism.pipeline_parallel_degree
    share = config.workers / config.worker_processes / shards  # of the memory of one worker on each GPU
    offloaded = whole.outer if config.outer_optimizer.offload else 0
    peak = (whole.peak - offloaded) * share
    return Plan(
        name=name or config.run.name,
        look=f"{variant(config).name}, {size.alias}",
        steps=config.training.steps,
        tokens=config.training.tokens,
        gpus=gpus,
        step_seconds=size.flops_per_token * config.tokens_per_step / (gpus * GPUS[gpu].flops * utilization),
        sync_steps=ft.sync_steps if apart else 1,
        exchange_bytes=float(_exchange_bytes(layouts, config.workers)) if apart else 2.0 * size.parameters * (gpus > 1),
        fragments=ft.num_fragments if apart else 1,
        delay=ft.fragment_sync_delay if apart else 0,
        memory=whole,
        state_per_gpu=(whole.state - offloaded) * share,
        bytes_per_gpu=peak,
        host_bytes_per_gpu=offloaded * share,
        fits=peak < GPUS[gpu].memory,
        validation_share=validation_share(config),
    )


def fastest(plans: Sequence[Plan], gbit_per_second: float) -> Plan:
    """Returns the plan of the run that is done first on such links."""
    return min(plans, key=lambda plan: plan.at(gbit_per_second).total)


def exchange_bytes(config: ResolvedConfig, workers: int) -> float:
    """Returns the bytes that the first of so many workers sends for one exchange of the whole model."""
    from muloco.outer.protocol.exchange import bytes_sent

    return float(sum(bytes_sent(layout, workers, 0) for layout in _layouts(config)))


def _exchange_bytes(layouts: Sequence["Layout"], workers: int) -> int:
    """Returns the bytes that the worker with the most traffic sends for one exchange of the whole model."""
    from muloco.outer.protocol.exchange import bytes_sent

    return sum(max(bytes_sent(layout, workers, rank) for rank in range(workers)) for layout in layouts)


def _layouts(config: ResolvedConfig) -> "list[Layout]":
    """The form in which each fragment travels."""
    import torch

    from muloco.training.outer import build_compression, fragments_of

    size = flavor(config.model.flavor)
    parameters = {name: torch.empty(shape, device="meta") for name, shape in size.shapes.items()}
    compression = build_compression(config.compression, parameters, tables=size.tables)
    fragments = fragments_of(config, parameters)
    return [compression.layout({name: parameters[name] for name in fragment}) for fragment in fragments]
