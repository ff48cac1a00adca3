"""The exchange against a plain mean, for group sizes and shapes that do not divide."""

import itertools
import math
import random

import pytest
import torch

from muloco.outer.codecs import build_codec
from muloco.outer.codecs.channel import Channel
from muloco.outer.codecs.compression import Compression, Reduce, Wire
from muloco.outer.in_process import InProcessGroup
from muloco.outer.protocol import exchange
from muloco.outer.protocol.exchange import average, gather_bytes, split

from ..toy import Case, train_in_process
from ..workers import run_workers

Shapes = list[tuple[int, ...]]


def wire_of(shapes: Shapes) -> Wire:
    return Compression().wire({str(index): torch.empty(shape) for index, shape in enumerate(shapes)})


def averaged(vectors: list[torch.Tensor], shapes: Shapes, weights: list[int]) -> list[tuple[torch.Tensor, int]]:
    """What each worker holds after the exchange, and the bytes that it sent; the same bits whether or not the mean is
    written over what it averages."""
    group = InProcessGroup(len(vectors))
    wire = wire_of(shapes)

    def work(rank: int) -> tuple[torch.Tensor, int]:
        this_round = group.transport(rank).open(1)
        before = vectors[rank].clone()
        mean = average(this_round, vectors[rank], wire, weights)
        assert torch.equal(vectors[rank].nan_to_num(7), before.nan_to_num(7)), "what is sent is left alone"
        sent = this_round.bytes_sent
        over = average(this_round, before, wire, weights, overwrite=True)
        assert over is before and torch.equal(over, mean)
        return mean, sent

    return run_workers(group, work)


def random_shapes(draw: random.Random) -> Shapes:
    sizes = [0, 1, 2, 3, 7, 16]
    return [tuple(draw.choices(sizes, k=draw.randint(0, 3))) for _ in range(draw.randint(1, 6))]


def test_split_is_a_balanced_partition_at_row_boundaries() -> None:
    draw = random.Random(1)
    for shapes, members in ((random_shapes(draw), draw.randint(1, 8)) for _ in range(1000)):
        owned = split(shapes, members)
        starts = list(itertools.accumulate(map(math.prod, shapes), initial=0))
        assert len(owned) == members
        position = 0
        for piece in itertools.chain(*owned):
            assert piece.start == position and piece.elements > 0, "all elements once, in order"
            shape, offset = shapes[piece.tensor], piece.start - starts[piece.tensor]
            assert 0 <= offset <= math.prod(shape) - piece.elements
            assert piece.shape[1:] == shape[1:] and offset % math.prod(shape[1:]) == 0, "whole rows"
            position += piece.elements
        assert position == starts[-1]
        widest = max((math.prod(shape[1:]) for shape in shapes if math.prod(shape)), default=0)
        for pieces in owned:
            assert abs(sum(piece.elements for piece in pieces) - starts[-1] / members) <= widest, (shapes, members)


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
def test_mean_of_any_shapes_and_weights(workers: int) -> None:
    draw = random.Random(workers)
    torch.manual_seed(workers)
    for _ in range(20):
        shapes = [*random_shapes(draw), (3, 5)]
        weights = [draw.randint(0, 30) for _ in range(workers - 1)] + [30]
        vectors = [torch.randn(sum(map(math.prod, shapes))) for _ in range(workers)]
        weighted = sum(weight * vector.double() for weight, vector in zip(weights, vectors, strict=True))
        results = averaged(vectors, shapes, weights)
        for mean, _ in results:
            torch.testing.assert_close(mean.double(), weighted / sum(weights), rtol=1e-6, atol=1e-6)
            assert torch.equal(mean, results[0][0])


def test_weight_zero_is_left_out_whatever_it_holds() -> None:
    vectors = [torch.tensor([1.0, 2.0]), torch.tensor([float("nan"), float("inf")]), torch.tensor([5.0, -2.0])]
    for mean, _ in averaged(vectors, [(2,)], [1, 0, 3]):
        assert mean.tolist() == [4.0, -1.0]


def test_weights_of_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must not sum to 0; got \[0, 0\]"):
        averaged([torch.ones(3)] * 2, [(3,)], [0, 0])


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_bytes_follow_the_formula(workers: int) -> None:
    """2 (K - 1) / K x 4 bytes an element leave each worker."""
    shapes = [(8, 3, 5), (720,)]  # rows that every K divides
    results = averaged([torch.ones(840)] * workers, shapes, [1] * workers)
    assert [sent for _, sent in results] == [2 * (workers - 1) * 840 * 4 // workers] * workers


def test_bytes_of_a_sync_are_those_of_the_mean_and_of_small_headers() -> None:
    """Uneven parts: a worker sends all but its own part, and its own part to all others."""
    case = Case(workers=3, fragments=2, steps=13)
    for worker, result in enumerate(train_in_process(case)):
        for _, sync in result.syncs:
            fragment = result.loop.fragments[sync.fragment]
            own = sum(piece.elements for piece in split(fragment.channel.wire.shapes, 3)[worker])
            elements = sum(map(math.prod, fragment.channel.wire.shapes))
            payload = 4 * (elements - own + 2 * own)
            assert payload < sync.bytes_sent < payload + 2 * 1000


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shapes = [(10, 7), (1, 50), (), (300,), (9, 1)]
    vectors = [torch.randn(430) for _ in range(3)]
    whole = averaged(vectors, shapes, [1, 2, 3])
    for limit in (1, 100, 4 * 143):
        monkeypatch.setattr(exchange, "BATCH_BYTES", limit)
        for (mean, sent), (expected, bytes_expected) in zip(averaged(vectors, shapes, [1, 2, 3]), whole, strict=True):
            assert torch.equal(mean, expected) and sent == bytes_expected, limit


def test_bytes_of_any_length_are_gathered() -> None:
    group = InProcessGroup(4)
    said = [b"\0", b"abc", bytes(range(256)), b"x"]
    assert run_workers(group, lambda rank: gather_bytes(group.transport(rank).open(1), said[rank])) == [said] * 4


def test_one_worker_averages_nothing_and_copies_nothing() -> None:
    vector = torch.arange(15.0)
    this_round = InProcessGroup(1).transport(0).open(1)
    assert average(this_round, vector, wire_of([(5, 3)]), [7]) is vector
    assert vector.tolist() == list(range(15))


@pytest.mark.parametrize("reduce", ["reselect", "gather", "requantize"])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_compressed_means_may_be_written_over_what_they_average(workers: int, reduce: Reduce) -> None:
    """Dense tensors among the compressed ones travel as views of the vector: alone in a batch, and with others. Error
    feedback takes up the same from both."""
    torch.manual_seed(workers)
    tensors = {name: torch.empty(shape) for name, shape in (("a", (6, 5)), ("n", (9,)), ("b", (40,)), ("m", (3,)))}
    compression = Compression(
        codec=build_codec("linear", bits=4), dense=frozenset("nm"), reduce=reduce, error_feedback=True
    )
    group = InProcessGroup(workers)
    vectors = [torch.randn(82) for _ in range(workers)]

    def work(rank: int) -> None:
        this_round = group.transport(rank).open(1)
        kept, over = Channel(compression, tensors), Channel(compression, tensors)
        for _ in range(2):
            mean = average(this_round, vectors[rank], kept.wire, [3] * workers, channel=kept)
            flat, weights = vectors[rank].clone(), [3] * workers
            assert torch.equal(average(this_round, flat, over.wire, weights, channel=over, overwrite=True), mean)
            kept.commit()
            over.commit()
            ours, theirs = (channel.residuals(torch.device("cpu")) for channel in (over, kept))
            assert all(torch.equal(ours[kind], vector) for kind, vector in theirs.items())

    for limit in (1, 200, 10_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exchange, "BATCH_BYTES", limit)
            run_workers(group, work)
            group = InProcessGroup(workers)
