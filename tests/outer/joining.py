"""Workers that take over the state of another one when they were away."""

import io
from collections.abc import Callable

import torch

from muloco.outer import Snapshot, Transport
from muloco.outer.in_process import InProcessGroup

from .toy import Case, drift, start


def stand_still(group: InProcessGroup, worker: int) -> None:
    """The worker misses all rounds until it is present again."""
    with group._condition:
        group.present.discard(worker)
        group._form_round()
    group.wait(worker, lambda: worker in group.present)


class Worker:
    """One worker that can take over the state of another one, with the history of its syncs."""

    def __init__(self, case: Case, transport: Transport, worker: int, **options):
        self.parameters = start()
        self.worker, self.step, self.steps = worker, 0, case.steps
        self.syncs: list[tuple[int, list[int], int]] = []
        """After which step each came, with which workers, and with which digest of the anchor."""
        self.attempts: list[int] = []
        """Rounds that each of them took."""
        self.moves: list[tuple[int, int]] = []
        """Steps from which and to which it went when it took over a state."""
        self.loop = case.loop(self.parameters, transport, worker, transfer=self, **options)

    def pack(self, snapshot: Snapshot) -> bytes:
        buffer = io.BytesIO()
        torch.save((self.step, snapshot.position, snapshot.tensors), buffer)
        return buffer.getvalue()

    def unpack(self, state: bytes) -> Snapshot:
        step, position, tensors = torch.load(io.BytesIO(state), weights_only=True)
        self.moves.append((self.step, step))
        self.step = step
        return Snapshot(position=position, tensors=tensors, residuals={}, codecs={})

    def joined(self, data_position: str | None) -> None:
        pass

    def train(self, before_sync: Callable[["Worker"], None]) -> None:
        """Trains to the end; `before_sync` is called before each."""
        self.loop.start(0)
        while self.step < self.steps:
            self.step += 1
            for name, change in drift(self.worker, self.step).items():
                self.parameters[name] += change
            if self.loop.sends_after(self.step):
                before_sync(self)
            syncs = self.loop.after_inner_step(self.step, last=self.step == self.steps)
            self.attempts += [sync.attempts for sync in syncs]
            self.syncs += [(self.step, sorted(sync.weights), sync.digest) for sync in syncs]
