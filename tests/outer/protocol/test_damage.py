"""Single bits that change on their way between workers: the round is repeated, and nothing of them is left."""

import random
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch

from muloco.outer.codecs import build_codec
from muloco.outer.codecs.compression import Compression
from muloco.outer.protocol import peer_round
from muloco.outer.protocol.authentication import TAG_BYTES
from muloco.outer.protocol.peer_transport import PeerTransport
from muloco.outer.wire.peer_group import GlooGroup, PeerGroup

from ...covering import only
from ..over_torchft import connect, in_threads
from ..queueing import QueueingGroup
from ..toy import Case, Result, train, train_in_process

CASE = Case(workers=3, fragments=2, interval=4, steps=8, alpha=0.5)
COMPRESSIONS = {
    "dense": Compression(),
    "topk": Compression(codec=build_codec("topk", fraction=0.3), error_feedback=True),
    "4-bit, gathered": Compression(codec=build_codec("linear", bits=4), reduce="gather", error_feedback=True),
}


class Damage:
    """Flips a random bit of what arrives at a worker in the swaps with these numbers, counted over all rounds; of
    payloads alone, if wanted."""

    def __init__(self, transport: PeerTransport, at: set[int], draw: random.Random, *, payloads: bool):
        self._open, self._swap, self._at, self._draw = transport.open, transport.wire.swap, at, draw
        self._counts = not payloads
        self.swaps = 0
        self.flipped = 0
        transport.wire.swap = self.swap  # type: ignore[method-assign]
        if payloads:
            transport.open = self.open  # type: ignore[method-assign]

    def open(self, step: int):
        this_round = self._open(step)
        exchange, headers = this_round.exchange, this_round.exchanges + 2

        def watched(*args):
            self._counts = this_round.exchanges >= headers and len(args[0][0]) != TAG_BYTES
            try:
                return exchange(*args)
            finally:
                self._counts = False

        this_round.exchange = watched
        return this_round

    def swap(self, received: torch.Tensor, *args) -> None:
        self._swap(received, *args)
        if self._counts and received.numel():
            if self.swaps in self._at:
                bit = self._draw.randrange(8 * received.numel())
                received[bit // 8] ^= 1 << bit % 8
                self.flipped += 1
            self.swaps += 1


def damaged(
    case: Case,
    address: str,
    at: dict[int, set[int]],
    *,
    group: Callable[[timedelta], PeerGroup],
    payloads: bool = False,
    **options,
) -> tuple[list[Result], list[Damage]]:
    """Trains while bits flip in swaps `at[worker]`."""
    damages: dict[int, Damage] = {}
    all_done = threading.Barrier(case.workers, timeout=60)

    def work(worker: int) -> Result:
        transport = connect(worker, address, least=case.workers, group=group)
        damages[worker] = Damage(transport, at.get(worker, set()), random.Random(worker), payloads=payloads)
        try:
            return train(case, worker, transport, **options)
        finally:
            all_done.wait()
            transport.close()

    return in_threads(case.workers, work), [damages[worker] for worker in range(case.workers)]


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_damaged_payloads_are_never_committed(kind: str, lighthouse, group) -> None:
    """Payloads are damaged on both ways, some of them at several workers in one round."""
    compression, draw = COMPRESSIONS[kind], random.Random(kind)
    alone = train_in_process(CASE, compression=compression)
    at = {worker: set(draw.sample(range(8), 2)) for worker in range(3)}
    ours, damages = damaged(CASE, lighthouse(3), at, group=group, payloads=True, compression=compression)
    assert sum(damage.flipped for damage in damages) >= 3
    for worker, (result, expected) in enumerate(zip(ours, alone, strict=True)):
        assert result.history == expected.history and result.digests == expected.digests, f"worker {worker}: {at}"
        for name, value in expected.parameters.items():
            assert torch.equal(result.parameters[name], value), f"{name} of worker {worker}: {at}"


@pytest.mark.parametrize("group", only([GlooGroup], [GlooGroup, QueueingGroup]))
def test_each_exchange_of_a_round_is_watched(lighthouse, group, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit flips in one swap of a run, for each swap of the rounds in turn."""
    monkeypatch.setattr(peer_round, "CHUNK_BYTES", 64)
    monkeypatch.setattr(peer_round, "UNHEARD_SECONDS", 0.05)
    case = Case(workers=2, interval=1, steps=1)
    (expected, _), counted = damaged(case, lighthouse(2), {}, group=group)
    for number in range(counted[1].swaps):
        results, damages = damaged(case, lighthouse(2), {1: {number}}, group=group)
        assert [result.digests for result in results] == [expected.digests] * 2, number
        assert damages[1].flipped == 1
