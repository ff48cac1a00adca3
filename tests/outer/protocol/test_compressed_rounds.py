"""Compressed rounds against their definition: the mean, its bytes, error feedback, both transports."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch

from muloco.model import build
from muloco.outer.codecs import build_codec
from muloco.outer.codecs.channel import Channel
from muloco.outer.codecs.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.outer.protocol import exchange
from muloco.outer.protocol.exchange import average, bytes_sent, ring_bytes, split
from muloco.outer.protocol.transaction import NonFinitePseudogradient

from ...covering import only
from ..compressed_reference import CompressedRounds, Feedback, diloco
from ..over_torchft import connect, in_threads
from ..toy import SHAPES, Case, Result, drift, start, train, train_in_process, walk
from ..workers import run_workers

UNEVEN = {
    "a": (5, 3),
    "norm": (7,),
    "b": (40, 6),
    "scalar": (),
    "none": (0, 3),
    "one": (1, 1),
    "c": (9, 2, 3),
    "twin": (40, 6),
}
KINDS = {
    "bf16": {"kind": "bf16"},
    "linear 1": {"kind": "linear", "bits": 1},
    "linear row 3": {"kind": "linear", "bits": 3, "granularity": "row"},
    "statistical 4": {"kind": "statistical", "bits": 4},
    "statistical row 2": {"kind": "statistical", "bits": 2, "granularity": "row"},
    "lloyd_max 2": {"kind": "lloyd_max", "bits": 2},
    "lloyd_max row 8": {"kind": "lloyd_max", "bits": 8, "granularity": "row"},
    "ternary row": {"kind": "ternary", "granularity": "row"},
    "topk": {"kind": "topk", "fraction": 0.1},
    "topk bf16": {"kind": "topk", "fraction": 0.4, "values": "bf16"},
    "topk lloyd_max": {"kind": "topk", "fraction": 0.3, "values": "lloyd_max", "bits": 2},
}
CODECS = {name: build_codec(**chosen) for name, chosen in KINDS.items()}


def parts(
    kind: str, shapes: dict, reduce: str, feedback: Feedback | None, dense: Sequence[str] = ("norm",)
) -> tuple[Compression, CompressedRounds]:
    """Ours and the reference."""
    ours = Compression(
        codec=CODECS[kind],
        dense=frozenset(dense),
        reduce=reduce,
        error_feedback=feedback is not None,
        error_decay=feedback.decay if feedback else 0.9,
        error_alpha=feedback.alpha if feedback else 1.0,
        error_gain=feedback.gain if feedback else 1.0,
    )
    codecs = [None if name in dense else CODECS[kind] for name in shapes]
    return ours, CompressedRounds(list(shapes.values()), codecs, reduce, feedback)


def channels(compression: Compression, shapes: dict, workers: int) -> list[Channel]:
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return [Channel(compression, tensors) for _ in range(workers)]


def averaged(own: list[Channel], vectors: list[torch.Tensor], weights: list[int]) -> list[tuple[torch.Tensor, int]]:
    """What each worker holds after a committed exchange, and the bytes that it sent."""
    group = InProcessGroup(len(own))

    def work(rank: int) -> tuple[torch.Tensor, int]:
        this_round = group.transport(rank).open(1)
        before = vectors[rank].clone()
        mean = average(this_round, vectors[rank], own[rank].wire, weights, channel=own[rank])
        assert torch.equal(vectors[rank], before), "what is sent is left alone"
        own[rank].commit()
        return mean, this_round.bytes_sent

    return run_workers(group, work)


@pytest.mark.parametrize(
    ("kind", "reduce"),
    only(
        zip(CODECS, itertools.cycle(["reselect", "gather", "requantize"]), strict=False),
        itertools.product(CODECS, ["reselect", "gather", "requantize"]),
    ),
)
def test_means_are_those_of_the_definition_to_the_bit(kind: str, reduce: str) -> None:
    """For many group sizes, with and without error feedback; weights, one of which is 0."""
    torch.manual_seed(0)
    elements = sum(map(math.prod, UNEVEN.values()))
    other = Feedback(decay=0.5, alpha=0.25, gain=2.0)  # exact in fp32
    for workers, feedback in ((1, Feedback()), (2, None), (2, Feedback()), (3, other), (4, None), (8, Feedback())):
        compression, reference = parts(kind, UNEVEN, reduce, feedback)
        own = channels(compression, UNEVEN, workers)
        for number in range(2):
            vectors = [torch.randn(elements) * 10**-number for _ in range(workers)]
            weights = [0 if workers > 2 and rank == 1 else 10 + rank for rank in range(workers)]
            expected = reference.mean(dict(enumerate(vectors)), dict(enumerate(weights)))
            for rank, (mean, sent) in enumerate(averaged(own, vectors, weights)):
                what = f"K = {workers}, {feedback and vars(feedback)}, round {number}, worker {rank}"
                assert torch.equal(mean, expected), what
                assert sent == bytes_sent(own[rank].wire, workers, rank), what
                for name, vector in own[rank].residuals(torch.device("cpu")).items():
                    assert torch.equal(vector, getattr(reference, name)[rank]), f"{what}, {name}"


@pytest.mark.parametrize(("flavor", "off"), [("laptop", 0.05), ("150M", 0.01)])
@pytest.mark.parametrize("workers", [2, 4, 8, 16])
def test_bytes_are_those_of_the_formula(workers: int, flavor: str, off: float) -> None:
    """sum over pieces of payload_bytes x 2 (K - 1) / K; a worker's own may be `off`, as parts end at rows and norms
    travel as fp32. The saving is the same at every K."""
    shapes = model_shapes(flavor)
    norms = frozenset(name for name, shape in shapes.items() if len(shape) == 1)
    for bits in (2, 3, 4, 8):
        own = channels(Compression(codec=build_codec("statistical", bits=bits), dense=norms), shapes, 1)[0].wire
        sizes = []
        for piece in (piece for pieces in split(own.shapes, workers) for piece in pieces):
            dense = len(piece.shape) == 1
            sizes.append(4 * piece.elements if dense else math.ceil(piece.elements * bits / 8) + 4 * 2**bits)
        formula = sum(sizes) * 2 * (workers - 1) / workers
        sent = [bytes_sent(own, workers, rank) for rank in range(workers)]
        assert sum(sent) / workers == pytest.approx(formula, rel=1e-9), bits
        assert sent == pytest.approx([formula] * workers, rel=off), bits
        elements = sum(map(math.prod, shapes.values()))
        assert ring_bytes(own, workers) == 2 * (workers - 1) / workers * 4 * elements
        assert ring_bytes(own, workers) / formula == pytest.approx(32 / bits, rel=off), bits


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("workers", [2, 3, 8, 16])
def test_nobody_waits_long_for_who_has_more_to_send(workers: int, bits: int) -> None:
    """Batch by batch the owner with the most sets the pace: at 150M that is hardly more than an even share."""
    wire = channels(Compression(codec=build_codec("linear", bits=bits)), model_shapes("150M"), 1)[0].wire
    owned = split(wire.shapes, workers)
    pace, done = 0, [[] for _ in range(workers)]
    for batch in exchange._batches(owned, wire):
        sizes = [sum(exchange._sizes(wire, pieces)) for pieces in batch]
        largest = [max(exchange._sizes(wire, pieces), default=0) for pieces in batch]
        assert 0 < max(sizes) <= max(exchange.BATCH_BYTES, *largest)
        pace += max(sizes)
        for mine, pieces in zip(done, batch, strict=True):
            mine += pieces
    for mine, pieces in zip(done, owned, strict=True):
        assert sorted(mine, key=lambda piece: piece.start) == pieces
    assert pace <= 1.15 * sum(size for pieces in owned for size in exchange._sizes(wire, pieces)) / workers


@pytest.mark.parametrize(("bits", "workers"), [(2, 16), (3, 8), (4, 4), (8, 2)])
def test_counted_bytes_are_those_that_left(bits: int, workers: int) -> None:
    shapes = model_shapes("tiny")
    elements = sum(map(math.prod, shapes.values()))
    own = channels(Compression(codec=build_codec("linear", bits=bits)), shapes, workers)
    results = averaged(own, [torch.ones(elements)] * workers, [1] * workers)
    for rank, (_, sent) in enumerate(results):
        assert sent == bytes_sent(own[rank].wire, workers, rank)
        assert sent == pytest.approx(2 * (workers - 1) / workers * elements * bits / 8, rel=0.02)


def test_levels_of_lloyd_max_are_less_than_a_hundredth_at_150m() -> None:
    pieces = split(list(model_shapes("150M").values()), 8)
    for bits in (2, 3, 4, 8):
        codec = build_codec("lloyd_max", bits=bits)
        whole = sum(codec.payload_bytes(piece.shape) for part in pieces for piece in part)
        codes = sum(math.ceil(piece.elements * bits / 8) for part in pieces for piece in part)
        assert codes < whole <= 1.01 * codes


def model_shapes(flavor: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in build(flavor).named_parameters()}


@pytest.mark.parametrize("reduce", ["reselect", "gather"])
@pytest.mark.parametrize("kind", ["statistical 4", "linear row 3", "topk"])
def test_training_follows_the_definition(kind: str, reduce: str) -> None:
    """Six outer steps with Nesterov momentum, at an outer learning rate that is not 1."""
    case = Case(workers=3, interval=2, steps=12, lr=0.7)
    compression, reference = parts(kind, SHAPES, reduce, Feedback(), dense=["layers.0.norm"])
    results = train_in_process(case, compression=compression)
    expected = diloco(reference, start(), drift, workers=3, interval=2, steps=12, lr=0.7, momentum=0.9)
    for result in results:
        assert result.digests == results[0].digests
        for name, value in expected.items():
            torch.testing.assert_close(result.parameters[name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("feedback", [None, Feedback()], ids=["without", "with"])
def test_the_outer_learning_rate_acts_once(feedback: Feedback | None) -> None:
    """At 0.5 the first outer step moves half of the decoded mean, with error feedback or without. (The published code
    moves a quarter with error feedback.) So does every later step without momentum."""
    case = Case(workers=2, interval=2, steps=6, lr=0.5, momentum=0.0)
    compression, reference = parts("statistical 4", SHAPES, "reselect", feedback, dense=())
    one = train_in_process(case.with_(steps=2), compression=compression)[0]
    vectors = {k: -torch.cat([(drift(k, 1)[n] + drift(k, 2)[n]).flatten() for n in SHAPES]) for k in range(2)}
    decoded = reference.mean(vectors, {0: 2, 1: 2})
    moved = torch.cat([(start()[name] - one.parameters[name]).flatten() for name in SHAPES])
    torch.testing.assert_close(moved, 0.5 * decoded, rtol=1e-4, atol=1e-5)
    assert float(moved @ decoded / (decoded @ decoded)) == pytest.approx(0.5, rel=1e-4)
    fresh = parts("statistical 4", SHAPES, "reselect", feedback, dense=())[1]
    expected = diloco(fresh, start(), drift, workers=2, interval=2, steps=6, lr=0.5, momentum=0.0)
    for name, value in train_in_process(case, compression=compression)[1].parameters.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["statistical 4", "linear row 3", "topk"])
def test_the_published_path_with_error_feedback(kind: str) -> None:
    """Tensor by tensor: where error feedback is on, the published code multiplies a pseudogradient by the outer rate
    before it is compressed, encodes the mean of quantized ones again, and multiplies by the rate in the outer step;
    norms travel whole and are multiplied once."""
    rate, momentum, workers, norm, codec = 0.8, 0.9, 3, "layers.0.norm", CODECS[kind]
    reduce = "gather" if kind == "topk" else "requantize"
    compression, _ = parts(kind, SHAPES, reduce, Feedback(gain=rate), dense=[norm])
    case = Case(workers=workers, interval=2, steps=10, lr=rate, momentum=momentum)
    results = train_in_process(case, compression=compression)

    anchor = start()
    left = [{name: torch.zeros(shape) for name, shape in SHAPES.items()} for _ in range(workers)]
    buffers = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    for step in range(2, 11, 2):
        for name, shape in SHAPES.items():
            sent = []
            for worker in range(workers):
                delta = -(drift(worker, step - 1)[name] + drift(worker, step)[name])
                if name != norm:
                    error = 0.9 * left[worker][name] + rate * delta
                    delta = codec.decode(codec.encode(error), shape)
                    left[worker][name] = error - delta
                sent.append(delta)
            mean = sum(sent) / workers
            if name != norm and reduce == "requantize":
                mean = codec.decode(codec.encode(mean), shape)
            buffers[name] = momentum * buffers[name] + mean
            anchor[name] = anchor[name] - rate * (mean + momentum * buffers[name])
    for name, value in anchor.items():
        torch.testing.assert_close(results[0].parameters[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_error_feedback_makes_up_for_what_is_lost() -> None:
    """Equal pseudogradients, top-k of a tenth, decay 1: after many rounds every element has moved about as far."""
    compression = Compression(codec=CODECS["topk"], error_feedback=True, error_decay=1.0)
    shapes = {"w": (10, 10)}
    own, piece = channels(compression, shapes, 2), torch.linspace(1, 2, 100)
    total = sum(averaged(own, [piece, piece], [1, 1])[0][0] for _ in range(100))
    assert (total / 100 / piece - 1).abs().max() < 0.5
    without = channels(Compression(codec=CODECS["topk"]), shapes, 2)
    total = sum(averaged(without, [piece, piece], [1, 1])[0][0] for _ in range(3))
    assert (total == 0).sum() >= 80


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["statistical 4", "topk"])
def test_what_is_not_finite_is_refused_by_name_and_leaves_nothing_behind(kind: str, value: float) -> None:
    compression, _ = parts(kind, SHAPES, "reselect", Feedback(), dense=())
    case = Case(workers=3, interval=2, steps=6)
    group = InProcessGroup(3)
    messages = {}

    def work(worker: int) -> dict:
        parameters = start()
        loop = case.loop(parameters, group.transport(worker), worker, compression=compression)
        loop.start(0)
        walk(loop, parameters, worker, [1, 2, 3], case.steps)
        before = loop.snapshot(own=True).residuals
        if worker == 1:
            parameters["layers.1.wq"][2, 1] = value
        with pytest.raises(NonFinitePseudogradient) as refusal:
            loop.after_inner_step(4)
        messages[worker] = str(refusal.value)
        for name, left in loop.snapshot(own=True).residuals.items():
            assert all(torch.equal(left[tensor], old) for tensor, old in before[name].items())
        return before

    assert any(left.count_nonzero() for left in run_workers(group, work)[0]["sent"].values())
    assert all("worker [1]" in message for message in messages.values())
    assert "on worker 1 in layers.1.wq" in messages[1]


TOGETHER = {
    "statistical 4": Case(workers=3, fragments=3, interval=6, steps=15, delay=1, alpha=0.5),
    "topk lloyd_max": Case(workers=2, fragments=2, interval=4, steps=11, delay=1),
    "lloyd_max row 8": Case(workers=4, fragments=1, interval=5, steps=10),
}


@pytest.mark.parametrize("kind", TOGETHER)
def test_both_transports_give_the_same_bits(kind: str, lighthouse) -> None:
    """Streaming, overlap, compression and error feedback together."""
    case, address = TOGETHER[kind], lighthouse(TOGETHER[kind].workers)
    reduce = "gather" if kind.startswith("topk") else "reselect"
    compression, _ = parts(kind, SHAPES, reduce, Feedback(), dense=["layers.0.norm"])

    def work(worker: int) -> Result:
        transport = connect(worker, address)
        try:
            return train(case, worker, transport, compression=compression)
        finally:
            transport.close()

    alone = train_in_process(case, compression=compression)
    for worker, ours in enumerate(in_threads(case.workers, work)):
        assert ours.history == alone[worker].history
        assert ours.digests == alone[worker].digests == alone[0].digests
        for name, value in alone[worker].parameters.items():
            assert torch.equal(ours.parameters[name], value), name
        for left, expected in zip(
            ours.loop.snapshot(own=True).residuals.values(),
            alone[worker].loop.snapshot(own=True).residuals.values(),
            strict=True,
        ):
            assert all(torch.equal(left[name], value) for name, value in expected.items())
