"""The torchft lighthouse of a run: where its workers find each other."""

import contextlib
import http.client
import logging
import os
import queue
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from muloco.launch.placement.spec import LOOPBACK, HostSpec
from muloco.launch.processes import Child
from muloco.outer.wire.network import Network
from muloco.training.environment import SECRET

logger = logging.getLogger(__name__)

LISTENS = "the lighthouse listens at "
"""The text before the address in the output of `muloco lighthouse`."""
START_SECONDS = 30
RESTARTS = 20
"""How often a lost lighthouse is started again."""
PROBE_SECONDS = 5.0
"""Seconds between two checks whether the lighthouse answers."""
ANSWER_SECONDS = 10.0
SILENT_SECONDS = 30.0
"""Seconds without an answer after which the lighthouse counts as hanging and is replaced."""
_PLAIN = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Requests to the lighthouse ignore proxies in the environment."""


class LighthouseError(RuntimeError):
    """The lighthouse cannot be started; the message is one line."""


def start_lighthouse(
    *,
    workers: int,
    log: Path,
    secret: str = "",
    host: HostSpec = HostSpec(),  # noqa: B008 (it is frozen)
    heartbeat_timeout: float = 5.0,
    join_timeout: float = 60.0,
    port: int = 0,
) -> tuple[Child, str]:
    """Starts `muloco lighthouse`.

    Args:
        workers: least number of workers in a quorum.
        secret: the secret of the run; needed if the host is not on loopback.
        host: where; on the loopback interface of this machine.
        heartbeat_timeout: seconds without a sign of life after which a worker counts as dead.
        join_timeout: seconds that those who have come wait for one that is alive but late.
        port: 0: a free one.

    Returns:
        the process and its address, `http://HOST:PORT`.

    Raises:
        LighthouseError: it did not start; the message names its log.
    """
    lines: queue.Queue[str] = queue.Queue()
    options = {
        "host": host.address,
        "port": port,
        "min_replica_size": workers,
        "heartbeat_timeout_seconds": heartbeat_timeout,
        "straggler_timeout_seconds": join_timeout,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [*host.start, host.python, "-m", "muloco", "lighthouse", *words]
    child = Child("lighthouse", command, log=log, environment={SECRET: secret}, on_line=lines.put)
    deadline = time.monotonic() + START_SECONDS
    while child.status is None and time.monotonic() < deadline:
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            continue
        if LISTENS in line:  # a line of torchft, which writes its lines in pieces, may have begun before it
            return child, line.partition(LISTENS)[2]
    child.end(grace_seconds=1)
    raise LighthouseError(f"the lighthouse did not start within {START_SECONDS} s; see {log}")


class Lighthouse:
    """The lighthouse of a run, which is restarted on the same port when it dies or no longer answers; its state is in
    the workers.

    Args:
        start: starts it on a port (0: a free one), as `start_lighthouse` does.
        port: the first one. Where it cannot be used, the lighthouse takes a free one.
        secret: the secret of the run; needed if the lighthouse is not on loopback.
    """

    def __init__(self, start: Callable[[int], tuple[Child, str]], port: int = 0, *, secret: str = ""):
        self._start = start
        self._restarts = 0
        try:
            self.child, self.address = start(port)
        except LighthouseError as error:
            if port == 0:
                raise
            logger.warning("%s; trying a free port instead of %d", error, port)
            self.child, self.address = start(0)
        self._network = Network(LOOPBACK, os.fsencode(secret))
        self._probe = _Probe(self.address, self._network)

    def keep_alive(self) -> bool:
        """Restarts the lighthouse if it is lost. To be called again and again. Returns False if it is lost for good."""
        if self.child.status is None and self._probe.silent_seconds > SILENT_SECONDS:
            logger.warning("the lighthouse has not answered for %.0f s and is ended", self._probe.silent_seconds)
            self.child.end(grace_seconds=1)
        if self.child.status is None:
            return True
        if self._restarts == RESTARTS:
            return False
        logger.warning("the lighthouse was lost (%s) and is started again", self.child.reason())
        self._restarts += 1
        self._probe.heard()
        try:
            self.child, _ = self._start(int(self.address.rsplit(":", 1)[1]))
        except LighthouseError as error:
            logger.error("%s", error)
            return False
        return True

    def close(self) -> None:
        """Closes the connections to the lighthouse, but does not end the lighthouse itself."""
        self._network.close()


class _Probe:
    """Checks regularly, in a thread of its own, whether a lighthouse answers."""

    def __init__(self, address: str, network: Network):
        self._address = address.removeprefix("http://")
        self._network = network
        self.heard()
        threading.Thread(target=self._ask, name="lighthouse probe", daemon=True).start()

    @property
    def silent_seconds(self) -> float:
        """Seconds since it last answered, or was started."""
        return time.monotonic() - self._heard

    def heard(self) -> None:
        self._heard = time.monotonic()

    def _ask(self) -> None:
        while True:
            with (
                contextlib.suppress(OSError, http.client.HTTPException),
                _PLAIN.open(f"http://{self._network.reach(self._address)}/status", timeout=ANSWER_SECONDS) as answer,
            ):
                answer.read()
                self.heard()
            time.sleep(PROBE_SECONDS)
