"""Workers that take part in rounds and do not reach each other: which ones they are, and which of them stays out.

The lighthouse sees that both are alive, and takes both into every quorum, where they cannot be connected. So after
some failed rounds in a row the one with the higher number stays out of the rounds until the two reach each other.

A worker that was killed is no such case. Its machine refuses the connection, or the lighthouse leaves it out.
"""

import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from muloco.outer.transport import TransportError

logger = logging.getLogger(__name__)

FAILURES = 3
"""Failed rounds in a row in which two workers did not reach each other, after which one of them stays out."""
PROBE_SECONDS = 3.0
"""Time limit of a connection that is only tried."""
RETRY_SECONDS = 10.0
"""Two workers that do not reach each other try again this often."""


class StaysOut(TransportError):
    """This worker takes part in no round until it reaches another one again."""


def reaches(address: str) -> bool:
    """Whether the machine at `host:port` answers. A refusal is an answer, too: only the worker has gone then."""
    port = int(address.rpartition(":")[2])
    try:
        socket.create_connection((_host(address), port), timeout=PROBE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


class Reachability:
    """What one worker knows of the connections to the others.

    Args:
        worker: its number.
        address: `host:port` of its peer server.
        reaches: whether something answers at an address `host:port`.
    """

    def __init__(self, worker: int, address: str, reaches: Callable[[str], bool] = reaches):
        self._worker = worker
        self._address = address
        self._reaches = reaches
        self._addresses: dict[int, str] = {}
        self._failures: dict[int, int] = {}
        """Failed rounds in a row, by the worker that was in the quorum and was not reached."""
        self._tried = -math.inf
        """When this worker last looked again."""
        self._looking: threading.Thread | None = None
        self.elsewhere: Collection[int] = ()
        """Workers that are `apart` from other ranks of this worker. All its ranks have to act alike."""
        self.out: dict[int, int] = {}
        """Members of the last quorum that stay out of its rounds, and on account of which other one."""

    def introduced(self, addresses: Mapping[int, str]) -> None:
        """These workers have been connected with this one, and each can be asked at its address `host:port`."""
        self._addresses |= addresses
        for worker in addresses:
            self._failures.pop(worker, None)

    def failed(self, workers: Iterable[int]) -> None:
        """A round with these workers has failed, or they could not be connected with the others: tries to reach each of
        them, and counts where it does not."""
        others = [worker for worker in workers if worker != self._worker and worker in self._addresses]
        for worker, reached in zip(others, self._reached(others), strict=True):
            if reached:
                self._failures.pop(worker, None)
                continue
            self._failures[worker] = self._failures.get(worker, 0) + 1
            logger.warning("%s; failed rounds in a row: %d", self.account(worker, self._worker), self._failures[worker])

    def apart(self) -> list[int]:
        """The workers that this one has not reached in so many failed rounds in a row, nor since."""
        return sorted(worker for worker, failures in [*self._failures.items()] if failures >= FAILURES)

    def _apart_from_a_rank(self) -> list[int]:
        """The workers that are `apart` from this rank or another one of this worker."""
        return sorted({*self.apart(), *(worker for worker in self.elsewhere if worker in self._addresses)})

    def look_again(self) -> None:
        """Tries to reach the workers that are `apart`, every `RETRY_SECONDS` at most."""
        doubtful = self.apart()
        if not doubtful or time.monotonic() < self._tried + RETRY_SECONDS:
            return
        for worker, reached in zip(doubtful, self._reached(doubtful), strict=True):
            if reached:
                logger.warning("worker %d reaches worker %d again", self._worker, worker)
                self._failures.pop(worker, None)
        self._tried = time.monotonic()

    def look_again_meanwhile(self) -> None:
        """As `look_again`, in a thread of its own."""
        if self.apart() and (self._looking is None or not self._looking.is_alive()):
            self._looking = threading.Thread(target=self.look_again, name="reachability", daemon=True)
            self._looking.start()

    def remark(self) -> str:
        """What this worker tells the other members of a quorum: its address, and those of the workers that are `apart`
        from it."""
        return " ".join([self._address, *(self._addresses[worker] for worker in self._apart_from_a_rank())])

    def settle(self, remarks: Mapping[int, str]) -> set[int]:
        """Returns which members of a quorum stay out of its rounds.

        Args:
            remarks: of each member, by worker. An address that no member has any more, because its worker was started
                again elsewhere, means nothing.
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
        for worker, other in self.out.items():
            if worker != self._worker:
                account = self.account(worker, other)
                logger.warning("%s; worker %d stays out of the rounds until they do", account, worker)
        return set(self.out)

    def settle_alone(self, workers: Iterable[int], *, host: str) -> bool:
        """Whether this worker stays out of the rounds of a quorum and cannot even tell the other members.

        Args:
            workers: members of the quorum.
            host: name or address of the machine over which they tell each other.
        """
        self.out = {}
        apart = self._apart_from_a_rank()
        if not any(_host(self._addresses[worker]) == host for worker in apart):
            return False
        self.out = staying_out(dict[int, Collection[int]](dict.fromkeys(workers, ())) | {self._worker: apart})
        return self._worker in self.out

    def keeps_out(self) -> bool:
        """Whether this worker stays out, and would do so in another group of the same members, too. It looks again."""
        if self._worker not in self.out:
            return False
        self.look_again()
        return self.out[self._worker] in self._apart_from_a_rank()

    def reason_to_stay_out(self) -> StaysOut | None:
        """Why this worker takes part in no round of the last quorum; None: it may."""
        other = self.out.get(self._worker)
        if other is None:
            return None
        account = self.account(self._worker, other)
        return StaysOut(f"{account}; worker {self._worker} stays out of the rounds until they do")

    def account(self, one: int, other: int) -> str:
        """Says of two workers that they do not reach each other."""
        at = [
            self._addresses[worker] for worker in (one, other) if worker != self._worker and worker in self._addresses
        ]
        where = f" at {' and '.join(at)}" if at else ""
        return f"worker {min(one, other)} and worker {max(one, other)} do not reach each other{where}"

    def _reached(self, workers: Collection[int]) -> list[bool]:
        if not workers:
            return []
        with ThreadPoolExecutor(len(workers), "probe") as pool:
            return list(pool.map(self._reaches, [self._addresses[worker] for worker in workers]))


def _host(address: str) -> str:
    """Of an address `host:port`."""
    return address.rpartition(":")[0].strip("[]")


def staying_out(apart: Mapping[int, Collection[int]]) -> dict[int, int]:
    """Which workers stay out of the rounds, and on account of which other one.

    Of each pair it is the one with the higher number, unless one of the two stays out already.

    Args:
        apart: the workers that each member does not reach, by member.
    """
    pairs = {(min(one, other), max(one, other)) for one, others in apart.items() for other in others if other in apart}
    out: dict[int, int] = {}
    for lower, higher in sorted(pairs):
        if lower not in out and higher not in out:
            out[higher] = lower
    return out
