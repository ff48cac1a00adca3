"""What the supervisor needs to know to start the processes of a run, be it here or on other nodes."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from muloco.training.config import Config
from muloco.training.load import ConfigError

LOOPBACK = "127.0.0.1"
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Variables with the settings of torch's allocator: its name, and the older one."""


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
    """
    Args:
        config: of a run that is to be on the CPU.
        where: that has no CUDA devices, for the message.

    Raises:
        ConfigError: it has a value that needs them.
    """
    if config.fault_tolerance.process_group == "nccl":
        raise ConfigError(f"fault_tolerance.process_group nccl needs CUDA devices, {where} has none; use gloo")
    if config.optimizer.symmetric_products == "triton":
        raise ConfigError(
            f"optimizer.symmetric_products triton needs CUDA devices, {where} has none; use auto or matmul"
        )


def allocator_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What the environment of a worker on CUDA devices adds to this one, unless the user has set the allocator.

    Segments of device memory that can grow do not fall to pieces over activations, syncs and validations of different
    sizes; torchtitan's own launcher asks for them as well. NCCL must then not register the buffers of CUDA graphs:
    together the two have led to illegal memory accesses (pytorch issue 158029).
    """
    if any(name in environment for name in _ALLOCATOR):
        return {}
    return {
        _ALLOCATOR[0]: "expandable_segments:True",
        "NCCL_GRAPH_REGISTER": environment.get("NCCL_GRAPH_REGISTER", "0"),
    }
