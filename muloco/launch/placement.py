"""What the supervisor needs to know to start the processes of a run, be it here or on other nodes."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from muloco.errors import UserError
from muloco.settings.config import Config

LOOPBACK = "127.0.0.1"
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Names of the environment variable for torch's allocator: the current one and the older one."""


@dataclass(frozen=True, kw_only=True)
class Station:
    """Where a process of the run lives."""

    start: tuple[str, ...] = ()
    """Words before its command: what takes it to another node."""
    python: str = sys.executable
    host: str = LOOPBACK
    """Address under which others reach it."""
    port: int = 0
    """That it may listen on; 0: any."""
    interface: str = "lo" if sys.platform == "linux" else "lo0"
    """Network interface of that address."""
    nodes: int = 1
    """Nodes that it spreads over."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the processes of a run live."""

    environments: tuple[dict[str, str], ...]
    """What each worker's environment adds to this one's, by worker."""
    stations: tuple[Station, ...]
    """Of the workers."""
    lighthouse: Station
    process_group: str
    """gloo or nccl."""
    description: str
    """One line for the user."""


def refuse_what_needs_cuda(config: Config, where: str) -> None:
    """Refuses configs that need CUDA devices.

    Args:
        config: config of a run on the CPU.
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
    has led to illegal memory accesses (pytorch issue 158029).
    """
    if any(name in environment for name in _ALLOCATOR):
        return {}
    return {
        _ALLOCATOR[0]: "expandable_segments:True",
        "NCCL_GRAPH_REGISTER": environment.get("NCCL_GRAPH_REGISTER", "0"),
    }
