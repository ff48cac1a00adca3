"""Checks of a worker's environment before it starts. Needs nothing but Python."""

import re
import socket
import time
from collections.abc import Mapping

from muloco.training.config import Config
from muloco.training.load import ConfigError

LIGHTHOUSE = "TORCHFT_LIGHTHOUSE"
"""Environment variable: address of the lighthouse, `http://host:port`."""
ATTEMPT = "MULOCO_ATTEMPT"
"""Environment variable: how many times the run has been started; the launcher sets it."""
LIGHTHOUSE_SECONDS = 60.0
"""Seconds for which a worker that is started by hand waits for its lighthouse."""


def check_environment(config: Config, environment: Mapping[str, str]) -> None:
    """Checks that a worker of a resolved config can start in this environment.

    Raises:
        ConfigError: the number of ranks is not that of the config, the address of the lighthouse is missing or wrong,
            or no lighthouse answers there.
    """
    ranks = config.ranks_per_worker
    if "RANK" not in environment and ranks > 1:
        raise ConfigError(
            f"a worker of {ranks} ranks must be started by torchrun: "
            f"torchrun --standalone --nproc-per-node {ranks} -m muloco worker CONFIG ..."
        )
    if "RANK" in environment and environment.get("WORLD_SIZE") != str(ranks):
        raise ConfigError(
            f"RANK and WORLD_SIZE are those of {environment.get('WORLD_SIZE', 'no')} ranks, but the config's "
            f"parallelism makes a worker of {ranks}; start as many, or unset RANK if torchrun has not set it"
        )
    if config.worker_processes > 1:
        host, port = _lighthouse(config, environment.get(LIGHTHOUSE))
        if ATTEMPT not in environment:  # a worker started by hand; the supervisor brings a lost lighthouse back
            _await_lighthouse(host, port)


def _lighthouse(config: Config, address: str | None) -> tuple[str, int]:
    """Host and port of the lighthouse."""
    if not address:
        raise ConfigError(
            f"the {config.workers} workers of this run need a lighthouse: set {LIGHTHOUSE}=http://host:port, or start "
            "them all with `muloco train`"
        )
    parts = re.fullmatch(r"http://([^/:\[\]]+|\[[^/\]]+\]):(\d+)/?", address)
    if parts is None or not 0 < int(parts[2]) < 2**16:
        raise ConfigError(f"{LIGHTHOUSE} must be an address such as http://host:29510; got {address!r}")
    return parts[1].strip("[]"), int(parts[2])


def _await_lighthouse(host: str, port: int) -> None:
    deadline = time.monotonic() + LIGHTHOUSE_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=LIGHTHOUSE_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"no lighthouse answers at {LIGHTHOUSE}=http://{host}:{port}: {error}; start one first "
                    "(docs/fault-tolerance.md says how)"
                ) from None
        time.sleep(0.5)
