"""How long a run takes, idealized: compute, and what exchanges between workers add to it (arXiv 2505.23725)."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WallClock:
    """Seconds of a run."""

    compute: float
    communication: float
    """Seconds for which inner steps wait for exchanges."""
    hidden: float
    """Seconds of exchanges that run in parallel with inner steps."""

    @property
    def total(self) -> float:
        return self.compute + self.communication

    @property
    def utilization(self) -> float:
        """Share of the time that is compute."""
        return self.compute / self.total


def wall_clock(
    *,
    steps: int,
    compute_seconds: float,
    exchange_bytes: float,
    gbit_per_second: float,
    sync_steps: int = 1,
    fragments: int = 1,
    delay: int = 0,
) -> WallClock:
    """The time of a run whose workers exchange something every `sync_steps` inner steps.

    Args:
        steps: inner steps of the run.
        compute_seconds: seconds of one inner step, including everything within a worker.
        exchange_bytes: that leave a worker for one sync of the whole model; both directions of its link are busy.
        gbit_per_second: of each worker's link, in each direction.
        sync_steps: H; 1: every step, as data-parallel training does.
        fragments: J, each exchanged once in H steps.
        delay: tau, inner steps beside which the exchange of a fragment runs.

    Raises:
        ValueError: a number is not positive, or the delay is negative.
    """
    positive = {
        "steps": steps,
        "compute_seconds": compute_seconds,
        "gbit_per_second": gbit_per_second,
        "sync_steps": sync_steps,
        "fragments": fragments,
    }
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0; got {value}")
    if exchange_bytes < 0 or delay < 0:
        raise ValueError(f"exchange_bytes and delay must be 0 or more; got {exchange_bytes} and {delay}")
    exchange = 8 * exchange_bytes / fragments / (gbit_per_second * 1e9)
    hidden = min(exchange, delay * compute_seconds)
    exchanges = steps / sync_steps * fragments
    return WallClock(
        compute=steps * compute_seconds, communication=exchanges * (exchange - hidden), hidden=exchanges * hidden
    )


def time_unit(seconds: float) -> tuple[str, float]:
    """The largest unit of which that time is at least one, if there is any, and the unit in seconds."""
    return next((unit for unit in _UNITS if seconds >= unit[1]), _UNITS[-1])


_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
