"""A real lighthouse for tests whose workers are threads of one process, and what connects them."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from torchft.coordination import LighthouseServer

from muloco.outer.wire.peer_group import GlooGroup, PeerGroup

from .queueing import QueueingGroup


@pytest.fixture
def lighthouse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """`lighthouse(least, heartbeat_seconds=...)` starts torchft's lighthouse in a thread of its own; its address."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    servers = []

    def start(least: int, *, heartbeat_seconds: float = 5.0) -> str:
        server = LighthouseServer(
            bind="127.0.0.1:0",
            min_replicas=least,
            join_timeout_ms=60_000,
            quorum_tick_ms=20,
            heartbeat_timeout_ms=round(1000 * heartbeat_seconds),
        )
        servers.append(server)
        return f"http://127.0.0.1:{urlsplit(server.address()).port}"

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture(params=[GlooGroup, QueueingGroup])
def group(request: pytest.FixtureRequest) -> Callable[[timedelta], PeerGroup]:
    """Returns a process group: one whose works can be waited for, or one whose works fail late and silently."""
    return request.param
