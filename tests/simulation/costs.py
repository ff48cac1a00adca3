"""What things cost in the simulated world: seconds of steps, timeouts, and the rate of links."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of a run. The defaults make short runs in which much happens; `calibrate` has measured ones."""

    step_seconds: tuple[float, float] = (0.5, 1.5)
    """Shortest and longest inner step."""
    validation_seconds: float = 0.0
    """Seconds of each of the two validations at a sync."""
    quorum_timeout: float = 120.0
    straggler_timeout: float = 20.0
    exchange_timeout: float = 5.0
    heartbeat_timeout: float = 3.0
    message_seconds: float = 0.002
    """How long most messages take at most. One in a hundred takes up to fifty times as long."""
    bytes_per_second: float = math.inf
    """What a worker can send to others in a second."""
