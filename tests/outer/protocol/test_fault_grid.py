"""Every kind of fault at every point of a round, over a process group whose works fail late and in silence, as those of
NCCL do: a run ends as it does among the threads of one process."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch

from muloco.outer.codecs import build_codec
from muloco.outer.codecs.compression import Compression
from muloco.outer.protocol import peer_round

from ...covering import only
from ..faults import cut_at, die_at, die_in_process, lose_contact, lose_contact_in_vote
from ..over_torchft import connect, in_threads
from ..queueing import QueueingGroup
from ..toy import Case, Result, train, train_in_process
from .test_faults import in_process, over_torchft, points_before_the_vote

AT = 4
"""The step of the second of three syncs."""
CASE = Case(interval=2, steps=6, alpha=0.5)
COMPRESSIONS = {
    "dense": Compression(),
    "lloyd_max": Compression(codec=build_codec("lloyd_max", bits=2), error_feedback=True),
    "topk": Compression(codec=build_codec("topk", fraction=0.3), error_feedback=True),
}
ACTS = {"dies": die_at, "is cut off": cut_at, "votes no": lose_contact}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault that strikes one worker of a run."""

    workers: int
    act: str
    point: str
    victim: int
    delay: int
    codec: str

    def breaks(self, address: str) -> str | None:
        """Trains with the fault at a lighthouse. Returns how the outcome differs from the expected one, if it does."""
        case = CASE.with_(workers=self.workers, delay=self.delay)
        step, after = AT - self.delay, self.point == "voted"
        act = lose_contact_in_vote if after and self.act == "votes no" else ACTS[self.act]
        death = {self.victim: (step, self.point, die_in_process)} if self.act == "dies" else {}
        compression = COMPRESSIONS[self.codec]
        expected = in_process(case, death, compression=compression)
        try:
            results = over_torchft(
                case,
                address,
                {self.victim: (step, self.point, act)},
                group=QueueingGroup,
                compression=compression,
            )
        except Exception as error:
            return f"{self}: {error!r}"
        for worker, (ours, alone) in enumerate(zip(results, expected, strict=True)):
            if (difference := differs(ours, alone, retried=[] if after else [AT])) is not None:
                return f"{self}: worker {worker}: {difference}"
        return None


def differs(ours: Result | None, expected: Result | None, *, retried: list[int]) -> str | None:
    if ours is None or expected is None:
        return None if ours is expected else "died, or did not"
    if ours.history != expected.history:
        return f"{ours.history} in place of {expected.history}"
    if ours.digests != expected.digests:
        return "other bits"
    again = [step for step, sync in ours.syncs if sync.attempts > 1]
    return None if again == retried else f"retried {again} in place of {retried}"


def faults(workers: int, act: str) -> list[Fault]:
    """Faults at every point of a round, dense and compressed, with alternating workers, delays and codecs."""
    return [
        Fault(
            workers=workers,
            act=act,
            point=point,
            victim=(number + turn) % workers,
            delay=(number // 2 + turn) % 2,
            codec=("topk", "lloyd_max")[number % 2] if compressed else "dense",
        )
        for number, point in enumerate([*points_before_the_vote(), "voted"])
        for turn, compressed in enumerate((False, True))
    ]


@pytest.mark.parametrize(("workers", "act"), only([(2, "dies"), (3, "is cut off")], itertools.product((2, 3, 4), ACTS)))
def test_every_point_of_a_round(workers: int, act: str, lighthouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs are at work at the same time: most of them only wait for the heartbeat of a dead worker to run out.
    Where nobody dies, no heartbeat may run out, however busy the machine is."""
    monkeypatch.setattr(peer_round, "CHUNK_BYTES", 200)  # headers and some payloads take several
    cases = faults(workers, act)
    addresses = [lighthouse(1, heartbeat_seconds=3 if act == "dies" else 60) for _ in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        broken = [found for found in pool.map(Fault.breaks, cases, addresses) if found is not None]
    assert not broken, f"{len(broken)} of {len(cases)}:\n" + "\n".join(broken)


def test_the_introduction_of_a_new_group(lighthouse) -> None:
    """One worker loses contact as it tells the others its address: they all connect again."""
    case, address, lost = CASE.with_(workers=3), lighthouse(3), threading.Event()

    def work(worker: int) -> Result:
        transport = connect(worker, address, group=QueueingGroup)
        swap = transport.wire.swap

        def lost_once(*args) -> None:
            swap(*args)
            if worker == 1 and not lost.is_set():
                lost.set()
                raise ConnectionError("the test has broken the connection")

        transport.wire.swap = lost_once
        try:
            return train(case, worker, transport)
        finally:
            transport.close()

    for ours, alone in zip(in_threads(3, work), train_in_process(case), strict=True):
        assert differs(ours, alone, retried=[]) is None
        assert all(torch.equal(ours.parameters[name], value) for name, value in alone.parameters.items())
    assert lost.is_set()
