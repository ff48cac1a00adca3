"""The hosts of a run's processes, as the supervisor needs to know them to start processes here or on other nodes."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from muloco.errors import UserError
from muloco.settings.config import ResolvedConfig

LOOPBACK = "127.0.0.1"
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Names of the environment variable for torch's allocator: the current one and the older one."""


@dataclass(frozen=True, kw_only=True)
class HostSpec:
    """The host of one process of a run."""

    start: tuple[str, ...] = ()
    """Words before the command of the process that start it on another node."""
    python: str = sys.executable
    """Python interpreter on the host."""
    address: str = LOOPBACK
    """Address at which other processes reach it."""
    port: int = 0
    """Port that the process may listen on; 0 means any."""
    interface: str = "lo" if sys.platform == "linux" else "lo0"
    """Network interface of the address."""
    nodes: int = 1
    """Number of nodes over which the ranks of the process are spread."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables to add for the process."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The hosts of all processes of a run."""

    hosts: tuple[HostSpec, ...]
    """Hosts of the workers."""
    lighthouse: HostSpec
    """Host of the lighthouse."""
    process_group: str
    """Backend of the outer exchange: gloo or nccl."""
    description: str
    """The placement in one line, for the user."""


def described(config: ResolvedConfig) -> str:
    """Returns how many workers a run has, such as `2 workers of 4 ranks`."""
    ranks = config.ranks_per_worker
    text = f"{config.workers} worker{'s' * (config.workers > 1)}{f' of {ranks} ranks' * (ranks > 1)}"
    return text + ", taking turns in one process," * (config.worker_processes < config.workers)


def threads(environment: Mapping[str, str], *, cores: int, ranks: int) -> str:
    """Returns OMP_NUM_THREADS for a rank that shares cores with others: the user's, or an equal part of the cores."""
    return environment.get("OMP_NUM_THREADS") or str(max(1, cores // ranks))


def refuse_what_needs_cuda(config: ResolvedConfig, where: str) -> None:
    """Refuses configs that need CUDA devices.

    Args:
        where: the place without CUDA devices, for the message.

    Raises:
        UserError: a field has a value that needs CUDA devices.
    """
    if config.fault_tolerance.process_group == "nccl":
        raise UserError(f"fault_tolerance.process_group nccl needs CUDA devices, and {where} has none; use gloo")
    if config.optimizer.symmetric_products == "triton":
        raise UserError(
            f"optimizer.symmetric_products triton needs CUDA devices, and {where} has none; use auto or matmul"
        )


def allocator_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables to add for a worker on CUDA devices; none if the user has set the allocator.

    Expandable segments of device memory avoid fragmentation by activations, syncs and validations of different sizes;
    torchtitan's own launcher sets them as well. NCCL must then not register the buffers of CUDA graphs: the combination
    has led to illegal memory accesses (pytorch issue 158029)."""
    if any(name in environment for name in _ALLOCATOR):
        return {}
    return {
        _ALLOCATOR[0]: "expandable_segments:True",
        "NCCL_GRAPH_REGISTER": environment.get("NCCL_GRAPH_REGISTER", "0"),
    }
