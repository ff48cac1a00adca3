"""Workers that hold different anchors, or NaN, stop before anything of it spreads; the message says who and where."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from muloco.outer import AnchorMismatch, NonFinitePseudogradient
from muloco.outer.codecs import build_codec
from muloco.outer.codecs.channel import Channel
from muloco.outer.codecs.compression import Compression
from muloco.outer.codecs.kinds.dense import Float32
from muloco.outer.in_process import InProcessGroup
from muloco.outer.loop.digest import digest
from muloco.outer.protocol.header import Header, as_hex
from muloco.outer.protocol.terms import Terms
from muloco.outer.protocol.transaction import agree

from ..over_torchft import connect, in_threads
from ..toy import FRAGMENTS, SHAPES, Case, start, walk
from ..workers import run_workers

CASE = Case(workers=3, fragments=3, interval=6, steps=12)


def errors(
    case: Case, before: Callable[[int, dict], None], between: Callable, address: str | None = None, **options
) -> list:
    """What each worker is stopped by: `before(worker, parameters)` acts before its loop is built,
    `between(worker, loop, parameters)` after step 6."""
    group = InProcessGroup(case.workers)

    def work(worker: int) -> Exception | None:
        transport = group.transport(worker) if address is None else connect(worker, address)
        parameters = start()
        before(worker, parameters)
        loop = case.loop(parameters, transport, worker, **options)
        try:
            loop.start(0)
            walk(loop, parameters, worker, range(1, 7), case.steps)
            between(worker, loop, parameters)
            walk(loop, parameters, worker, range(7, case.steps + 1), case.steps)
        except (AnchorMismatch, NonFinitePseudogradient) as error:
            return error
        finally:
            loop.close()

    return run_workers(group, work) if address is None else in_threads(case.workers, work)


def nothing(*args) -> None:
    pass


def flip(tensor: torch.Tensor) -> None:
    """The lowest bit of the last element."""
    tensor.view(-1)[-1:].view(torch.int32).bitwise_xor_(1)


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("name", SHAPES)
def test_one_flipped_bit_stops_all_at_the_next_sync_of_its_fragment(name: str, delay: int) -> None:
    index = next(index for index, names in enumerate(FRAGMENTS[3]) if name in names)
    digests = {}

    def corrupt(worker: int, loop, parameters) -> None:
        if worker == 1:
            flip(loop.fragments[index].anchor[name])
        digests[worker] = as_hex(int(digest(loop.fragments[index].anchor.values())))

    found = errors(CASE.with_(delay=delay), nothing, corrupt)
    said = ", ".join(f"worker {worker}: {digests[worker]}" for worker in range(3))
    assert digests[0] == digests[2] != digests[1]
    sent = (8, 10, 12)[index] - delay
    for error in found:
        assert isinstance(error, AnchorMismatch)
        assert str(error) == f"sync after step {sent}: the workers' anchors of fragment {index} differ ({said})"


def test_a_flipped_bit_of_the_momentum_stops_all_before_an_anchor_differs() -> None:
    """Also in the last window, after which no anchors are compared."""

    def corrupt(worker: int, loop, parameters) -> None:
        if worker == 1:
            (momentum,) = (kind for kind in loop.fragments[0].global_tensors() if kind != "anchor")
            flip(next(iter(loop.fragments[0].global_tensors()[momentum].values())))

    for error in errors(CASE.with_(fragments=1), nothing, corrupt):
        assert isinstance(error, AnchorMismatch)
        assert "sync after step 12: the workers' outer optimizer states of fragment 0 differ" in str(error)
        digests = re.findall(r"worker \d: (\w{16})", str(error))
        assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("over_torchft", [False, True])
def test_workers_that_start_apart_are_stopped_before_the_first_step(over_torchft: bool, lighthouse) -> None:
    def apart(worker: int, parameters: dict) -> None:
        if worker == 2:
            flip(parameters["layers.1.wq"])

    address = lighthouse(3) if over_torchft else None
    for error in errors(CASE, apart, nothing, address):
        assert isinstance(error, AnchorMismatch)
        assert re.match(
            r"sync after step 0: .* anchors differ \(worker 0: (\w{16}), worker 1: \1, worker 2: (?!\1)\w{16}\)",
            str(error),
        )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_names_worker_fragment_and_tensor(value: float) -> None:
    def spoil(worker: int, loop, parameters: dict) -> None:
        if worker == 1:
            parameters["layers.1.bias"][0, 0] = value

    found = errors(CASE, nothing, spoil)
    message = "sync after step 10: NaN or Inf in the pseudogradient of worker [1], fragment 1"
    assert [str(error) for error in found] == [message, f"{message}; on worker 1 in layers.1.bias", message]
    assert all(isinstance(error, NonFinitePseudogradient) for error in found)


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize(("kind", "value"), [("bf16", 3.4e38), ("none", 3e38)])
def test_a_mean_that_is_not_finite_stops_all_though_each_part_was(kind: str, value: float, delay: int) -> None:
    """In bf16 3.4e38 is rounded to infinity. A codec that adds parts without their weights makes the sum too large."""

    def spoil(worker: int, loop, parameters: dict) -> None:
        for tensor in parameters.values():
            tensor.zero_()
        if worker > 0:
            parameters["layers.1.bias"][0, 0] = -value

    class Overflowing(Float32):
        """Adds parts without weights."""

        def decode_pieces(self, payloads, targets, *, weight=1.0, add=False) -> None:
            super().decode_pieces(payloads, targets, weight=1.0, add=add)

    codec = build_codec(kind) if kind == "bf16" else Overflowing()
    found = errors(CASE.with_(delay=delay), nothing, spoil, compression=Compression(codec=codec))
    for error in found:
        assert isinstance(error, NonFinitePseudogradient)
        assert f"sync after step {10 - delay}: NaN or Inf in the mean of fragment 1" in str(error)
        assert "workers [0, 1, 2], in layers.1.bias, although" in str(error)


def test_a_large_mean_is_finite() -> None:
    """Its sum of squares is not."""
    group = InProcessGroup(2)

    def work(worker: int) -> float:
        parameters = start()
        loop = CASE.with_(workers=2, fragments=1).loop(parameters, group.transport(worker), worker)
        loop.start(0)
        parameters["layers.1.bias"][0, 0] = 1e30
        (sync,) = [sync for step in range(1, 7) for sync in loop.after_inner_step(step)]
        return sync.mean_square

    assert run_workers(group, work) == [math.inf, math.inf]


def test_workers_that_send_different_fragments_are_stopped() -> None:
    group = InProcessGroup(2)
    terms = Terms(workers=2, sync_interval=7, fragments=3)
    header = Header(
        **{"run": "", "worker": 0, "terms": terms, "step": 7, "fragment": 0, "weight": 7},
        **{"finite": True, "digest": 5, "data_position": "", "commit_hash": ""},
    )

    channel = Channel(Compression(), {"a": torch.ones(1)})

    def work(worker: int) -> None:
        own = replace(header, worker=worker, fragment=2 * worker)
        agree(group.transport(worker), own, torch.ones(1), lambda fragment: channel)

    with pytest.raises(AnchorMismatch, match=r"the workers send different fragments \(worker 0: 0, worker 1: 2"):
        run_workers(group, work)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 1.5}, "alpha must be from 0 to 1; got 1.5"),
        ({"interval": 2}, "2 inner steps are too few for 3 fragments"),
        ({"delay": 2}, "the delay must be from 0 to 1"),
    ],
)
def test_impossible_loops_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CASE.with_(**changes).loop(start(), InProcessGroup(1).transport(0), 0)
    with pytest.raises(ValueError, match="the fragments must hold every parameter exactly once"):
        CASE.loop({**start(), "another": torch.ones(1)}, InProcessGroup(1).transport(0), 0)
