"""Workers as threads of one process: a group of one for K = 1, and groups of many for studies and tests.

Threads take turns: one runs until it waits for others in a round; then the next one that can go on runs. So the order
of events is the same in every run, and workers can share a device, a random generator and a library's globals.
"""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence

import torch

from muloco.outer.protocol.clock import Clock
from muloco.outer.protocol.transport import KEPT_PARTS, TransportError
from muloco.outer.system_clock import SystemClock


class GroupEnded(RuntimeError):
    """Another worker of this process has failed, so this one ends, too."""


class InProcessGroup:
    """K workers of this process; `transport(worker)` gives each thread its own end.

    Args:
        size: number of workers, K >= 1.
    """

    def __init__(self, size: int):
        if size < 1:
            raise ValueError(f"a group needs at least one worker; got {size}")
        # A CUDA build of torch without a device does this when DTensor is first used, and two threads that do it at
        # once crash the process (seen with torch 2.11).
        torch._C._ensureCUDADeviceGuardSet()
        self.size = size
        self.present = set(range(size))
        """Workers that have not left."""
        self._condition = threading.Condition()
        self._turn = 0
        self._waiting: dict[int, Callable[[], bool]] = {}
        self._stuck = False
        self._ended = False
        self._arrived: set[int] = set()
        self._rounds: dict[int, _SharedRound] = {}  # formed, not yet taken up by this worker
        self._formed = 0
        self.offers: dict[tuple[str, int], bytes] = {}
        """States offered after a round, by the round's name and the worker."""
        self.published: dict[int, dict[str, bytes]] = {worker: {} for worker in range(size)}
        """The newest parts of work that each worker has published, by worker and name."""

    def transport(self, worker: int, device: torch.device | str = "cpu") -> "InProcessTransport":
        """Returns the transport of one worker, whose tensors are on `device`."""
        return InProcessTransport(self, worker, torch.device(device))

    @contextlib.contextmanager
    def taking_turns(self, worker: int) -> Iterator[None]:
        """A context around all work of a worker's thread if there are several: it waits for its turn, and leaves the
        group at the end, even after an error.

        Raises:
            GroupEnded: the group has ended before the worker began.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._turn == worker)
        try:
            self._check_end()
            yield
        finally:
            self.leave(worker)

    def leave(self, worker: int) -> None:
        """Ends the part of a worker in the group, and gives up its turn."""
        with self._condition:
            if worker in self.present:
                self.present.discard(worker)
                self._form_round()
                self._pass_turn(worker)

    def end(self) -> None:
        """Ends the work of all workers: each raises `GroupEnded` in its current or next wait for others."""
        with self._condition:
            self._ended = True

    def join(self, worker: int) -> "_SharedRound":
        """Waits until all workers that are present have joined; returns their round."""
        with self._condition:
            self._arrived.add(worker)
            self._form_round()
        self.wait(worker, lambda: worker in self._rounds)
        return self._rounds.pop(worker)

    def wait(self, worker: int, ready: Callable[[], bool]) -> None:
        """Lets others run until `ready`.

        Raises:
            TransportError: no worker can continue.
            GroupEnded: the group has ended.
        """
        with self._condition:
            self._check_end()
            if ready():
                return
            state = _random_state()
            self._waiting[worker] = ready
            self._pass_turn(worker)
            self._condition.wait_for(lambda: self._turn == worker or self._stuck)
            del self._waiting[worker]
            if self._stuck:
                raise TransportError("every worker of this process waits for another one")
            self._check_end()
            _restore_random_state(state)

    def _check_end(self) -> None:
        if self._ended:
            raise GroupEnded("another worker of this process has failed")

    def _form_round(self) -> None:
        if self.present and self._arrived >= self.present:
            members = sorted(self._arrived & self.present)
            self._formed += 1
            shared = _SharedRound(self, members, str(self._formed))
            self._rounds.update(dict.fromkeys(members, shared))
            self._arrived.clear()

    def _pass_turn(self, worker: int) -> None:
        for distance in range(1, self.size + 1):
            other = (worker + distance) % self.size
            may_go_on = self._ended or other not in self._waiting or self._waiting[other]()
            if other in self.present and may_go_on:
                self._turn = other
                break
        else:
            self._stuck = bool(self.present)
        self._condition.notify_all()


class InProcessTransport:
    """One worker's end of an `InProcessGroup`."""

    clock: Clock = SystemClock()
    concurrent = False

    def __init__(self, group: InProcessGroup, worker: int, device: torch.device):
        self.device = device
        self._group = group
        self._worker = worker

    def open(self, step: int) -> "InProcessRound":
        self._round = InProcessRound(self._group.join(self._worker), self._worker, self.device)
        return self._round

    def offer(self, name: str, state: bytes) -> None:
        self._group.offers[name, self._worker] = state

    def fetch(self, name: str, rank: int) -> bytes:
        key = name, self._round.members[rank]
        self._group.wait(self._worker, lambda: key in self._group.offers or key[1] not in self._group.present)
        if key not in self._group.offers:
            raise TransportError(f"worker {key[1]} left before it offered its state")
        return self._group.offers[key]

    def publish(self, name: str, part: bytes) -> None:
        kept = self._group.published[self._worker]
        kept[name] = part
        for earlier in list(kept)[:-KEPT_PARTS]:
            del kept[earlier]

    def collect(self, name: str, workers: Collection[int], patience: float) -> dict[int, bytes]:
        """See `Transport.collect`. Waits for all workers that are present, whatever `patience`: in one process none is
        late."""
        published, present = self._group.published, self._group.present
        others = [worker for worker in workers if worker != self._worker]
        self._group.wait(self._worker, lambda: all(name in published[w] or w not in present for w in others))
        return {worker: published[worker][name] for worker in others if name in published[worker]}

    def answer(self, question: str, answer: Callable[[], bytes]) -> None:
        pass  # all workers are in this process, so none has to be asked

    def inquire(self, question: str, seconds: float, workers: Collection[int] | None = None) -> dict[int, bytes]:
        return {}

    def any_rank(self, value: bool) -> bool:
        return value  # nobody is ever left behind here

    def cut(self) -> None:
        self._round.cut = True

    def close(self) -> None:
        pass


class InProcessRound:
    """See `muloco.outer.protocol.transport.Round`."""

    def __init__(self, shared: "_SharedRound", worker: int, device: torch.device):
        self._shared = shared
        self.exchanges = 0
        self.strangers: Sequence[str] = ()
        self.cut = False
        self.members = shared.members
        self.workers: Sequence[int] = shared.members
        self.device = device
        self.wire = torch.device("cpu")  # nothing is sent, so tensors on any device can be exchanged
        self.rank = shared.members.index(worker)
        self.size = len(shared.members)
        self.bytes_sent = 0

    @property
    def name(self) -> str:
        return self._shared.name

    def exchange(self, outgoing: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        if self.cut:
            raise TransportError(f"worker {self.members[self.rank]} is cut off")
        number, self.exchanges = self.exchanges, self.exchanges + 1
        received = self._shared.exchange(number, self.rank, outgoing)
        assert [tensor.numel() for tensor in received] == list(sizes)
        self.bytes_sent += sum(t.numel() for rank, t in enumerate(outgoing) if rank != self.rank)
        return received

    def tag(self, rank: int, number: int, data: bytes) -> bytes:
        return b""

    def call(self, rank: int) -> str:
        return f"worker {self.members[rank]}"

    def vote(self, ok: bool) -> bool:
        return self._shared.vote(self.rank, ok)


class _SharedRound:
    """The tensors that the members of a round have posted for each other. Until the vote they are not copies."""

    def __init__(self, group: InProcessGroup, members: list[int], name: str):
        self.members = members
        self.name = name
        self._group = group
        self._posts: dict[int, dict[int, Sequence[torch.Tensor]]] = {}  # by exchange, then by sender
        self._votes: dict[int, bool] = {}

    def exchange(self, number: int, rank: int, outgoing: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        posts = self._posts.setdefault(number, {})
        posts[rank] = outgoing
        self._posts.pop(number - 2, None)  # all have read it, or they could not have posted the one after it
        self._group.wait(self.members[rank], lambda: len(posts) == len(self.members) or self._broken(posts))
        if len(posts) < len(self.members):
            gone = [self.members[r] for r in range(len(self.members)) if r not in posts]
            raise TransportError(f"worker {gone[0]} did not come to the exchange")
        return [posts[sender][rank] for sender in range(len(self.members))]

    def vote(self, rank: int, ok: bool) -> bool:
        self._votes[rank] = ok
        self._group.wait(
            self.members[rank],
            lambda: all(r in self._votes or self._left(r) for r in range(len(self.members))),
        )
        self._posts.clear()  # no member waits in an exchange any more
        return all(self._votes.get(r, False) for r in range(len(self.members)))

    def _broken(self, posts: dict[int, Sequence[torch.Tensor]]) -> bool:
        return any(r not in posts and (r in self._votes or self._left(r)) for r in range(len(self.members)))

    def _left(self, rank: int) -> bool:
        return self.members[rank] not in self._group.present


def _random_state() -> list[torch.Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _restore_random_state(state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])
