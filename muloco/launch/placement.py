"""What the supervisor needs to know to start the processes of a run, be it here or on other nodes."""

import sys
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


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
