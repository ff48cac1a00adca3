"""Each payload is copied from the device to the wire once, and is sent only when the copy is complete."""

import pytest
import torch

from muloco.outer.codecs import build_codec
from muloco.outer.codecs.compression import Compression
from muloco.outer.protocol import staging
from muloco.outer.protocol.exchange import average
from muloco.outer.protocol.staging import Staging

from ..over_torchft import connect, in_threads
from ..toy import Case, train, train_in_process

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
CASE = Case(workers=3, fragments=2, interval=4, steps=9)
CODECS = {"dense": build_codec("none"), "4-bit": build_codec("linear", bits=4)}


class Queue(Staging):
    """A fake device: a copy to the host is complete only after a wait."""

    def __init__(self) -> None:
        super().__init__(CPU, CPU)
        self.queued: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.copied: list[int] = []
        """Bytes of each copy to the wire."""
        self.waits = 0

    def _elsewhere(self, device: torch.device) -> bool:
        return True

    def _copy(self, into: torch.Tensor, part: torch.Tensor) -> None:
        into.fill_(0xAB)
        self.queued.append((into, part))
        self.copied.append(part.numel())

    def _wait(self) -> None:
        self.waits += 1
        while self.queued:
            into, part = self.queued.pop()
            into.copy_(part)

    def from_wire(self, data: torch.Tensor, device: torch.device) -> torch.Tensor:
        return data.clone()


def vector(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)


def test_each_payload_is_copied_once_and_waited_for_once() -> None:
    queue, whole = Queue(), vector(1, 2, 3, 4)
    parts = [whole, vector(), whole, whole[:2], whole[2:], whole]
    staged = queue.to_wire(parts)
    assert [part.tolist() for part in staged] == [part.tolist() for part in parts]
    assert not any(mine is part for mine, part in zip(staged, parts, strict=True) if part.numel())
    assert (queue.copied, queue.waits) == ([4, 2, 2], 1)


def test_nothing_is_copied_where_payloads_are_made_on_the_wire() -> None:
    plain, whole = Staging(CPU, CPU), vector(1, 2)
    assert plain.to_wire([whole, whole])[1] is whole
    assert plain.from_wire(whole, CPU) is whole


@pytest.mark.parametrize(("device", "wire", "pinned"), [(CUDA, CPU, True), (CUDA, CUDA, False), (CPU, CPU, False)])
def test_host_memory_is_page_locked_beside_an_accelerator(
    device: torch.device, wire: torch.device, pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    monkeypatch.setattr(staging.torch, "empty", lambda size, **options: made.update(options, size=size))
    Staging(device, wire).room(7)
    assert made == {"size": 7, "dtype": torch.uint8, "device": wire, "pin_memory": pinned}


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("delay", [0, 1])
def test_workers_whose_payloads_are_staged_agree_with_the_others_to_the_bit(delay: int, kind: str, lighthouse) -> None:
    """Workers 0 and 2 make payloads elsewhere than on the wire, worker 1 on it. What is copied is what is sent, each
    payload once: nothing else crosses."""
    case, address = CASE.with_(delay=delay), lighthouse(CASE.workers)
    compression = Compression(codec=CODECS[kind])
    queues = {0: Queue(), 2: Queue()}

    def work(worker: int):
        transport = connect(worker, address)
        transport.staging = queues.get(worker, transport.staging)
        try:
            return train(case, worker, transport, compression=compression)
        finally:
            transport.close()

    alone = train_in_process(case, compression=compression)
    for worker, (ours, expected) in enumerate(zip(in_threads(case.workers, work), alone, strict=True)):
        assert ours.digests == expected.digests, worker
        if worker in queues:
            headers = 2000 * len(ours.syncs)  # of a round: who meets, and the vote
            assert 0 < sum(queues[worker].copied) < sum(sync.bytes_sent for _, sync in ours.syncs) + headers


def test_compressed_payloads_cross_compressed(lighthouse) -> None:
    """Bytes of one exchange of two workers: half of a fragment leaves for the other owner, and the mean of the other
    half follows."""
    rows, width = 64, 256
    tensors = {"a": torch.empty(rows, width, device="meta")}
    layout = Compression(codec=CODECS["4-bit"]).layout(tensors)
    address = lighthouse(2)

    def work(worker: int) -> int:
        transport, queue = connect(worker, address, least=2), Queue()
        this_round = transport.open(1)
        transport.staging = queue
        average(this_round, torch.full((rows * width,), 1.0 + worker), layout, [1, 1])
        copied = sum(queue.copied)
        assert this_round.vote(True)
        transport.close()
        return copied

    half = rows * width // 2 // 2 + 8  # 4 bits an element, and where the steps begin and how long they are
    assert in_threads(2, work) == [2 * half, 2 * half]
