"""Finds pairs of workers that cannot reach each other, and decides which of the two stays out of the rounds.

The lighthouse sees that both workers are alive and takes both into every quorum, but the quorum cannot be connected.
Therefore, after some failed rounds in a row, the worker with the higher number stays out of the rounds until the two
can reach each other again. A worker that was killed does not count as unreachable: its machine refuses the connection,
or the lighthouse leaves it out.

For this the workers exchange remarks. A remark is a short text that a worker sends to the other members of a quorum
when it is admitted (`muloco.outer.protocol.admission`): its own address, and the addresses that it cannot reach.
"""

import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from muloco.outer.protocol.transport import TransportError

logger = logging.getLogger(__name__)

FAILURES = 3
"""Failed rounds in a row, with two workers that cannot reach each other, after which one of them stays out."""
PROBE_SECONDS = 3.0
"""Time limit of a connection that only tests whether a worker can be reached."""
RETRY_SECONDS = 10.0
"""Two workers that do not reach each other try again this often."""


class StaysOut(TransportError):
    """This worker takes part in no rounds until it can reach a certain other worker again."""


def reaches(address: str) -> bool:
    """Whether the machine at `host:port` answers. A refused connection also counts: only the worker has gone then."""
    port = int(address.rpartition(":")[2])
    try:
        socket.create_connection((_host(address), port), timeout=PROBE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


class Reachability:
    """Keeps track of which other workers one worker can reach.

    Args:
        worker: the number of this worker.
        address: `host:port` of this worker's peer server.
        reaches: tells whether something answers at an address `host:port`.
    """

    def __init__(self, worker: int, address: str, reaches: Callable[[str], bool] = reaches):
        self._worker = worker
        self._address = address
        self._reaches = reaches
        self._addresses: dict[int, str] = {}
        self._failures: dict[int, int] = {}
        """Failed rounds in a row with a worker that could not be reached, by worker."""
        self._tried = -math.inf
        """Time of the last call of `look_again`."""
        self._looking: threading.Thread | None = None
        self.elsewhere: Collection[int] = ()
        """Workers that are `apart` from other ranks of this worker. All its ranks have to act alike."""
        self.out: dict[int, int] = {}
        """Members of the last quorum that stay out of its rounds, each with the worker that it cannot reach."""
        self._told: dict[int, int] = {}
        """The members in `out` that the log has already reported."""

    def introduced(self, addresses: Mapping[int, str]) -> None:
        """Notes the addresses (`host:port`) of workers that have just been connected with this one."""
        self._addresses |= addresses
        for worker in addresses:
            self._failures.pop(worker, None)

    def failed(self, workers: Iterable[int]) -> None:
        """Tries to reach workers with which a round has failed or could not be connected, and counts the failures."""
        others = [worker for worker in workers if worker != self._worker and worker in self._addresses]
        for worker, reached in zip(others, self._reached(others), strict=True):
            if reached:
                self._failures.pop(worker, None)
                continue
            self._failures[worker] = self._failures.get(worker, 0) + 1
            logger.warning("%s; failed rounds in a row: %d", self.account(worker, self._worker), self._failures[worker])

    def apart(self) -> list[int]:
        """Returns the workers that were unreachable in enough failed rounds in a row and were not reached since."""
        return sorted(worker for worker, failures in [*self._failures.items()] if failures >= FAILURES)

    def _apart_from_a_rank(self) -> list[int]:
        """The workers that are `apart` from this rank or another one of this worker."""
        return sorted({*self.apart(), *(worker for worker in self.elsewhere if worker in self._addresses)})

    def look_again(self) -> None:
        """Tries to reach the workers that are `apart`, at most once in `RETRY_SECONDS`."""
        doubtful = self.apart()
        if not doubtful or time.monotonic() < self._tried + RETRY_SECONDS:
            return
        for worker, reached in zip(doubtful, self._reached(doubtful), strict=True):
            if reached:
                logger.warning("worker %d can reach worker %d again", self._worker, worker)
                self._failures.pop(worker, None)
        self._tried = time.monotonic()

    def look_again_meanwhile(self) -> None:
        """Calls `look_again` in a thread."""
        if self.apart() and (self._looking is None or not self._looking.is_alive()):
            self._looking = threading.Thread(target=self.look_again, name="reachability", daemon=True)
            self._looking.start()

    def remark(self) -> str:
        """Returns this worker's remark: its address and those of the workers that are `apart` from it."""
        return " ".join([self._address, *(self._addresses[worker] for worker in self._apart_from_a_rank())])

    def settle(self, remarks: Mapping[int, str]) -> set[int]:
        """Returns which members of a quorum stay out of its rounds.

        Args:
            remarks: the remark of each member, by worker. Addresses of workers that have been restarted elsewhere are
                ignored.
        """
        said = {worker: remark.split() for worker, remark in remarks.items() if remark}
        for worker, (address, *_) in said.items():
            if self._addresses.get(worker, address) != address:
                self._failures.pop(worker, None)
        self._addresses |= {worker: address for worker, (address, *_) in said.items()}
        apart = {
            worker: [other for other, (address, *_) in said.items() if address in unreached]
            for worker, (_, *unreached) in said.items()
        }
        self.out = staying_out(apart)
        before, self._told = self._told, self.out
        for worker, other in self.out.items():
            if worker != self._worker and before.get(worker) != other:
                account = self.account(worker, other)
                logger.warning("%s; worker %d stays out of the rounds until they do", account, worker)
        return set(self.out)

    def settle_alone(self, workers: Iterable[int], *, host: str) -> bool:
        """Decides whether this worker stays out of the rounds of a quorum, if it cannot exchange remarks because the
        quorum's store is on a machine that it cannot reach.

        Args:
            workers: members of the quorum.
            host: name or address of the machine with the store.

        Returns:
            True if it stays out.
        """
        self.out = {}
        apart = self._apart_from_a_rank()
        if not any(_host(self._addresses[worker]) == host for worker in apart):
            return False
        self.out = staying_out(dict[int, Collection[int]](dict.fromkeys(workers, ())) | {self._worker: apart})
        return self._worker in self.out

    def keeps_out(self) -> bool:
        """Whether this worker stays out, also after `look_again`, so that meeting the same members again is useless."""
        if self._worker not in self.out:
            return False
        self.look_again()
        return self.out[self._worker] in self._apart_from_a_rank()

    def reason_to_stay_out(self) -> StaysOut | None:
        """Returns why this worker takes part in no round of the last quorum, or None if it may take part."""
        other = self.out.get(self._worker)
        if other is None:
            return None
        account = self.account(self._worker, other)
        return StaysOut(f"{account}; worker {self._worker} stays out of the rounds until they do")

    def account(self, one: int, other: int) -> str:
        """Returns the statement that two workers do not reach each other, for messages."""
        pair = sorted((one, other))
        at = [self._addresses[worker] for worker in pair if worker != self._worker and worker in self._addresses]
        where = f" at {' and '.join(at)}" if at else ""
        return f"worker {pair[0]} and worker {pair[1]} do not reach each other{where}"

    def _reached(self, workers: Collection[int]) -> list[bool]:
        if not workers:
            return []
        with ThreadPoolExecutor(len(workers), "probe") as pool:
            return list(pool.map(self._reaches, [self._addresses[worker] for worker in workers]))


def _host(address: str) -> str:
    """Returns the host of an address `host:port`."""
    return address.rpartition(":")[0].strip("[]")


def staying_out(apart: Mapping[int, Collection[int]]) -> dict[int, int]:
    """Returns the workers that stay out of the rounds, each with the worker that it cannot reach.

    In each pair the worker with the higher number stays out, unless one of the two stays out already.

    Args:
        apart: the workers that each member does not reach, by member.
    """
    pairs = {(min(one, other), max(one, other)) for one, others in apart.items() for other in others if other in apart}
    out: dict[int, int] = {}
    for lower, higher in sorted(pairs):
        if lower not in out and higher not in out:
            out[higher] = lower
    return out
