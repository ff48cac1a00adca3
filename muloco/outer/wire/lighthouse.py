"""A torchft lighthouse as a program of its own: directly on loopback, and behind a gate elsewhere."""

import asyncio
import importlib.util
import os
import sys
from collections.abc import Callable

from muloco.outer.wire.gate import LOOPBACK, Gate
from muloco.outer.wire.network import is_loopback, split


def _import_coordination() -> None:
    """Imports torchft's lighthouse without the rest of torchft, which imports torch: a lighthouse needs neither, and
    starts within a fraction of the time and memory."""
    spec = importlib.util.find_spec("torchft")
    assert spec is not None, "torchft is installed"
    sys.modules["torchft"] = importlib.util.module_from_spec(spec)
    try:
        importlib.import_module("torchft.coordination")
    finally:
        del sys.modules["torchft"]


if "torchft" not in sys.modules:
    _import_coordination()

from torchft.coordination import LighthouseServer  # noqa: E402


def serve(
    host: str,
    port: int,
    *,
    secret: bytes,
    least: int,
    heartbeat_timeout: float,
    straggler_timeout: float,
    tell: Callable[[str], object],
) -> None:
    """Runs a lighthouse until the process is ended.

    Args:
        host: name or address to listen on.
        port: port to listen on; 0 means a free one.
        secret: secret that workers must know if the host is not loopback.
        least: fewest workers that make a quorum.
        heartbeat_timeout: seconds without a sign of life after which a worker counts as dead.
        straggler_timeout: seconds that a quorum waits for a worker that is alive but late.
        tell: called with the address, `http://host:port`, once the lighthouse listens there.

    Raises:
        OSError: the address cannot be listened on.
    """
    plain = is_loopback(host)
    bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        server = LighthouseServer(
            bind=bind if plain else f"{LOOPBACK}:0",
            min_replicas=least,
            join_timeout_ms=round(1000 * straggler_timeout),
            heartbeat_timeout_ms=round(1000 * heartbeat_timeout),
        )
    except RuntimeError as error:
        raise OSError(_refusal(bind, error)) from None
    _, inner = split(server.address())
    try:
        asyncio.run(_wait(host, inner, tell) if plain else _guard(host, port, inner, secret, tell))
    finally:
        server.shutdown()


async def _wait(host: str, port: int, tell: Callable[[str], object]) -> None:
    tell(_url(host, port))
    await asyncio.Event().wait()


async def _guard(host: str, port: int, inner: int, secret: bytes, tell: Callable[[str], object]) -> None:
    gate = Gate(inner, secret)
    try:
        opened = await gate.open(host, port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror  # <0: unknown name
        raise OSError(_refusal(f"{host}:{port}", reason)) from None
    async with opened as server:
        tell(_url(host, gate.port))
        await server.serve_forever()


def _refusal(where: str, reason: object) -> str:
    return (
        f"the lighthouse cannot listen at {where}: {reason}; --host must be an address of this machine, "
        "and --port must be free"
    )


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
