"""The environment variables of a worker, and checks of them before it starts."""

import contextlib
import logging
import os
import re
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from muloco.errors import UserError
from muloco.outer.wire.network import Network
from muloco.runs.folder import RunFolder
from muloco.settings.config import Config

logger = logging.getLogger(__name__)

LIGHTHOUSE = "TORCHFT_LIGHTHOUSE"
"""Environment variable: address of the lighthouse, `http://host:port`."""
ATTEMPT = "MULOCO_ATTEMPT"
"""Environment variable: how many times the run has been started; the launcher sets it."""
SECRET = "MULOCO_SECRET"
"""Environment variable with the secret by which the workers of a run and its lighthouse recognize each other."""
SECRET_FILE = ".secret"
"""File in the run folder with the secret, for workers that the same user starts by hand while the run lasts."""
SHORTEST_SECRET = 16
"""Characters."""
LIGHTHOUSE_SECONDS = 60.0
"""Seconds for which a worker that is started by hand waits for its lighthouse."""


def check_environment(config: Config, environment: Mapping[str, str]) -> None:
    """Checks that a worker of a resolved config can start in this environment.

    Raises:
        UserError: the number of ranks differs from the config, the address of the lighthouse or the secret is missing
            or wrong, or no lighthouse answers at the address.
    """
    ranks = config.ranks_per_worker
    if "RANK" not in environment and ranks > 1:
        raise UserError(
            f"a worker of {ranks} ranks must be started by torchrun: "
            f"torchrun --standalone --nproc-per-node {ranks} -m muloco worker CONFIG ..."
        )
    if "RANK" in environment and environment.get("WORLD_SIZE") != str(ranks):
        raise UserError(
            f"RANK and WORLD_SIZE are those of {environment.get('WORLD_SIZE', 'no')} ranks, but the config's "
            f"parallelism makes a worker of {ranks}; start as many, or unset RANK if torchrun has not set it"
        )
    if config.worker_processes > 1:
        host, port = _lighthouse(config, environment.get(LIGHTHOUSE))
        secret = secret_of(config, environment)
        if ATTEMPT not in environment:  # a worker started by hand; the supervisor brings a lost lighthouse back
            _await_lighthouse(host, port, secret)


def secret_of(config: Config, environment: Mapping[str, str]) -> bytes:
    """Returns the secret of a run of several worker processes: from the environment, or else from the run folder.

    Raises:
        UserError: there is no secret, it is too short, or other users could have read or written its file.
    """
    if environment.get(SECRET):
        return secret_in(environment)
    file = RunFolder.of(config.run.outputs, config.run.name).root / SECRET_FILE
    secret = _read_secret(file)
    if secret is None:
        raise UserError(
            f"the {config.workers} workers of this run need a shared secret: export {SECRET}=$(openssl rand -hex 32), "
            "the same for all workers and the lighthouse, or start them all with `muloco train`"
        )
    return _checked(secret, str(file))


def secret_in(environment: Mapping[str, str]) -> bytes:
    """Returns the secret in an environment.

    Raises:
        UserError: there is no secret, or it is too short.
    """
    if not environment.get(SECRET):
        raise UserError(f"the workers and the lighthouse need a shared secret: export {SECRET}=$(openssl rand -hex 32)")
    return _checked(os.fsencode(environment[SECRET]), SECRET)


def _checked(secret: bytes, where: str) -> bytes:
    if len(secret) < SHORTEST_SECRET:
        raise UserError(
            f"the secret in {where} has {len(secret)} characters, but needs at least {SHORTEST_SECRET}; make a new one "
            f"with: export {SECRET}=$(openssl rand -hex 32)"
        )
    return secret


def _read_secret(file: Path) -> bytes | None:
    """Returns the stripped content of the file, or None if there is no file."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"the secret of the run cannot be read from {file}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise UserError(
                f"{file} must be a regular file that belongs to you and that nobody else can read or write (mode 600); "
                f"remove it and export {SECRET} instead"
            )
        return os.read(descriptor, 2**16).strip()
    finally:
        os.close(descriptor)


def _lighthouse(config: Config, address: str | None) -> tuple[str, int]:
    if not address:
        raise UserError(
            f"the {config.workers} workers of this run need a lighthouse: set {LIGHTHOUSE}=http://host:port, or start "
            "them all with `muloco train`"
        )
    parts = re.fullmatch(r"http://([^/:\[\]]+|\[[^/\]]+\]):(\d+)/?", address)
    if parts is None or not 0 < int(parts[2]) < 2**16:
        raise UserError(f"{LIGHTHOUSE} must be an address such as http://host:29510; got {address!r}")
    return parts[1].strip("[]"), int(parts[2])


def _await_lighthouse(host: str, port: int, secret: bytes) -> None:
    deadline = time.monotonic() + LIGHTHOUSE_SECONDS
    address = f"http://{host}:{port}"
    told = False
    with contextlib.closing(Network(host, secret)) as network:
        while True:
            try:
                network.check(f"{host}:{port}")
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"no lighthouse answers at {LIGHTHOUSE}={address}: {error}; start the "
                        "lighthouse, or correct its address or the secret (docs/network.md says how)"
                    ) from None
                if not told:
                    seconds = LIGHTHOUSE_SECONDS
                    logger.warning("waiting for the lighthouse at %s for at most %g s: %s", address, seconds, error)
                    told = True
            time.sleep(0.5)
