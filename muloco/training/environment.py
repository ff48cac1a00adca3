"""Checks of a worker's environment before it starts. Needs nothing but Python."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from muloco.training.config import Config
from muloco.training.load import ConfigError

LIGHTHOUSE = "TORCHFT_LIGHTHOUSE"
"""Environment variable: address of the lighthouse, `http://host:port`."""


def check_environment(config: Config, environment: Mapping[str, str]) -> None:
    """Checks that a worker of a resolved config can start here.

    Raises:
        ConfigError: there are several workers but no lighthouse, or the number of ranks is not that of the config.
    """
    if config.worker_processes > 1:
        _check_lighthouse(config, environment.get(LIGHTHOUSE))
    ranks, started = config.ranks_per_worker, environment.get("WORLD_SIZE")
    if "RANK" not in environment and ranks > 1:
        raise ConfigError(
            f"a worker of {ranks} ranks must be started by torchrun: "
            f"torchrun --standalone --nproc-per-node {ranks} -m muloco worker CONFIG ..."
        )
    if "RANK" in environment and started != str(ranks):
        raise ConfigError(
            f"WORLD_SIZE in the environment is {started}, but the config's parallelism makes a worker of {ranks} "
            "ranks; start as many"
        )


def _check_lighthouse(config: Config, address: str | None) -> None:
    if not address:
        raise ConfigError(
            f"the {config.workers} workers of this run need a lighthouse: set {LIGHTHOUSE}=http://host:port, or start "
            "them all with `muloco train`"
        )
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port
    except ValueError:  # a port that is not a number
        known = None
    if not known:
        raise ConfigError(f"{LIGHTHOUSE} must be an address such as http://host:29510; got {address!r}")
