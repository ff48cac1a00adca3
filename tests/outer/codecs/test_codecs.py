"""Codecs against slow references written with Python's integers and loops, and against published figures."""

import itertools
import math
import struct

import numpy as np
import pytest
import torch

from muloco.outer.codecs import build_codec

from .codec_examples import gaussian, relative_error, round_trip, student_t3
from .test_packing import as_bytes, bit_stream

MAX_1960 = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}
"""Bits -> least mean squared error of a quantizer of Gaussian values of variance 1 (Max 1960, table I)."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors are small here, and where other work fills the machine, threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- payloads against references


def as_rows(piece: torch.Tensor, granularity: str) -> np.ndarray:
    array = piece.numpy()
    return array.reshape(array.shape[0] if granularity == "row" and array.ndim > 1 else 1, -1)


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(13,), (6, 11), (3, 2, 5)])
def test_linear_payload_is_the_reference_byte_by_byte(shape, bits: int, granularity: str) -> None:
    piece = gaussian(*shape) - 0.5
    metadata, codes, decoded = [], [], []
    for row in as_rows(piece, granularity):
        least = min(row)
        step = np.float32((float(max(row)) - float(least)) / (2**bits - 1))
        metadata += [least, step]
        codes += [min(max(int(np.rint((x - least) / step)), 0), 2**bits - 1) for x in row]
        decoded += [np.float32(np.float32(code) * step) + least for code in codes[-len(row) :]]
    codec = build_codec("linear", bits=bits, granularity=granularity)
    payload = codec.encode(piece)
    assert as_bytes(payload) == struct.pack(f"<{len(metadata)}f", *metadata) + bit_stream(codes, bits)
    assert codec.decode(payload, shape).flatten().tolist() == [float(x) for x in decoded]


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(13,), (6, 40), (3, 2, 25)])
def test_statistical_is_the_reference(shape, bits: int, granularity: str) -> None:
    piece = student_t3(*shape) + 0.25
    bins, metadata, codes = 2**bits, [], []
    for row in as_rows(piece, granularity).astype(float):
        mean = sum(row) / len(row)
        step = 6 * math.sqrt(sum((x - mean) ** 2 for x in row) / (len(row) - 1)) / bins
        chosen = [min(max(round((x - mean) / step) + bins // 2, 0), bins - 1) for x in row]
        inside = [[x - mean for x, code in zip(row, chosen, strict=True) if code == c] for c in range(bins)]
        metadata.append([mean + (sum(group) / len(group) if group else 0.0) for group in inside])
        codes.append(chosen)
    codec = build_codec("statistical", bits=bits, granularity=granularity)
    payload = codec.encode(piece)
    levels = payload[: 4 * bins * len(codes)].clone().view(torch.float32)
    assert as_bytes(payload[levels.nbytes :]) == bit_stream(list(itertools.chain(*codes)), bits)
    torch.testing.assert_close(levels, torch.tensor(metadata, dtype=torch.float32).flatten(), rtol=1e-5, atol=1e-6)
    expected = torch.tensor([metadata[row][code] for row, chosen in enumerate(codes) for code in chosen])
    torch.testing.assert_close(codec.decode(payload, shape).flatten(), expected.float(), rtol=1e-5, atol=1e-6)


def least_squared_error(values: list[float], levels: int) -> float:
    """Of all ways to replace numbers by so many levels: dynamic programming over the sorted numbers."""
    array = np.sort(np.array(values, dtype=float))
    ones, squares = np.append(0, np.cumsum(array)), np.append(0, np.cumsum(array**2))

    def spread(start: np.ndarray, end: int) -> np.ndarray:
        return squares[end] - squares[start] - (ones[end] - ones[start]) ** 2 / (end - start)

    best = [0.0] + [float(spread(np.array([0]), end)[0]) for end in range(1, len(array) + 1)]
    for _ in range(levels - 1):
        best = [0.0] + [
            float(np.min(np.array(best[:end]) + spread(np.arange(end), end))) for end in range(1, len(best))
        ]
    return best[-1]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(("draw", "slack"), [(gaussian, 1.1), (student_t3, 1.6)], ids=["gaussian", "student_t3"])
def test_lloyd_max_is_near_the_best_of_all_codebooks(draw, slack: float, bits: int) -> None:
    """Lloyd's iteration ends at a local optimum, which in tails of a few elements need not be the best."""
    piece = draw(4, 500)
    error = (round_trip(piece, kind="lloyd_max", bits=bits, granularity="row") - piece).square().sum(1)
    for row, got in zip(piece, error, strict=True):
        assert got <= slack * least_squared_error(row.tolist(), 2**bits)


@pytest.mark.parametrize("fraction", [0.004, 0.1, 0.37, 0.5, 1.0])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_topk_payload_is_the_reference_byte_by_byte(fraction: float, ties: bool) -> None:
    piece = gaussian(30, 37)
    piece = (piece * 2).round() if ties else piece
    flat = piece.flatten().tolist()
    kept = max(1, round(len(flat) * fraction))
    index = sorted(sorted(range(len(flat)), key=lambda i: (-abs(flat[i]), i))[:kept])
    low, high = bytes(i & 255 for i in index), bit_stream([i >> 8 for i in index], 3)  # 1110 elements: 11 bits
    codec = build_codec("topk", fraction=fraction)
    payload = codec.encode(piece)
    assert as_bytes(payload) == struct.pack(f"<{kept}f", *(flat[i] for i in index)) + low + high
    chosen = set(index)
    assert codec.decode(payload, piece.shape).flatten().tolist() == [x * (i in chosen) for i, x in enumerate(flat)]
    by_torch = piece.flatten().abs().topk(kept).values.sum()
    torch.testing.assert_close(codec.decode(payload, piece.shape).abs().sum(), by_torch)


@pytest.mark.parametrize("values", ["bf16", "linear", "statistical", "lloyd_max"])
def test_topk_carries_values_as_another_kind_would(values: str) -> None:
    piece, bits = gaussian(50, 20), None if values == "bf16" else 3
    kept = round_trip(piece, kind="topk", fraction=0.2)
    small = round_trip(piece, kind="topk", fraction=0.2, values=values, bits=bits)
    stays = kept != 0
    assert torch.equal(small[stays], round_trip(kept[stays], kind=values, bits=bits))
    assert (small[~stays] == 0).all()


def test_dense_kinds_are_casts() -> None:
    piece = torch.tensor([1.1, -0.0, math.inf, -math.inf, math.nan, 1e-42, 3e38])
    assert torch.equal(round_trip(piece, kind="none").view(torch.int32), piece.view(torch.int32))
    torch.testing.assert_close(round_trip(piece, kind="bf16"), piece.bfloat16().float(), rtol=0, atol=0, equal_nan=True)


# -- sizes


@pytest.mark.parametrize(
    ("chosen", "shape", "size"),
    [
        ({"kind": "none"}, (10, 7), 280),
        ({"kind": "bf16"}, (10, 7), 140),
        ({"kind": "linear", "bits": 3}, (10, 7), 8 + 27),
        ({"kind": "linear", "bits": 3, "granularity": "row"}, (10, 7), 80 + 27),
        ({"kind": "statistical", "bits": 2, "granularity": "row"}, (70,), 16 + 18),
        ({"kind": "lloyd_max", "bits": 4}, (10, 7), 64 + 35),
        ({"kind": "topk", "fraction": 0.1}, (10, 7), 7 * 4 + 7),  # 49 bits of indices
        ({"kind": "topk", "fraction": 0.1, "values": "bf16"}, (1000, 1000), 100_000 * 2 + 250_000),  # 20 bits each
        ({"kind": "topk", "fraction": 0.1, "values": "linear", "bits": 4}, (70,), 8 + 4 + 7),
    ],
)
def test_size_by_hand(chosen: dict, shape, size: int) -> None:
    assert build_codec(**chosen).payload_bytes(shape) == size


@pytest.mark.parametrize("bits", range(1, 9))
def test_lloyd_max_metadata_is_small_at_150m(bits: int) -> None:
    layer = [(512, 512)] * 4 + [(1408, 512), (512, 1408), (1408, 512)]
    shapes = [(12864, 512)] * 2 + layer * 6
    total = sum(build_codec("lloyd_max", bits=bits).payload_bytes(shape) for shape in shapes)
    assert total <= 1.01 * sum(rows * columns * bits / 8 for rows, columns in shapes)


# -- errors of the quantizers


@pytest.mark.parametrize(
    ("granularity", "bits", "error"),
    [("tensor", 2, 0.423), ("tensor", 4, 0.111), ("row", 2, 0.423), ("row", 4, 0.111)],
)
def test_statistical_error_is_the_papers(granularity: str, bits: int, error: float) -> None:
    got = relative_error(gaussian(1024, 2816), kind="statistical", bits=bits, granularity=granularity)
    assert got == pytest.approx(error, rel=0.01)


@pytest.mark.parametrize(("granularity", "error"), [("tensor", 0.016), ("row", 0.014)])
def test_statistical_error_at_8_bits_is_the_papers_to_its_digits(granularity: str, error: float) -> None:
    got = relative_error(gaussian(1024, 2816), kind="statistical", bits=8, granularity=granularity)
    assert got == pytest.approx(error, abs=0.0005)


@pytest.mark.parametrize("fraction, error", [(0.01, 0.957), (0.1, 0.749), (0.5, 0.267)])
def test_topk_error_is_the_papers(fraction: float, error: float) -> None:
    assert relative_error(gaussian(1024, 2816), kind="topk", fraction=fraction) == pytest.approx(error, abs=0.001)


@pytest.mark.parametrize(("bits", "squared"), MAX_1960.items())
def test_lloyd_max_error_is_the_optimal_one(bits: int, squared: float) -> None:
    got = relative_error(gaussian(1024, 1024), kind="lloyd_max", bits=bits)
    assert got**2 == pytest.approx(squared, rel=0.01)
    assert bits != 2 or got <= 0.36
    assert bits != 4 or got <= 0.10


UNEVEN = {
    "student_t3": student_t3(64, 512),
    "two_peaks": 0.1 * gaussian(64, 512) + torch.where(gaussian(64, 512, seed=3) > 0, 10.0, -10.0),
    "mostly_zero": gaussian(64, 512) * (gaussian(64, 512, seed=3) > 1.6),
    "one_far_off": torch.cat([gaussian(63, 512), torch.full((1, 512), 1e-3).index_fill(1, torch.tensor([5]), 1e6)]),
    "lognormal": (2 * gaussian(64, 512)).exp(),
    "uniform": gaussian(64, 512).erf(),
    "small": 1e-25 * gaussian(64, 512),
    "large": 1e25 * gaussian(64, 512) + 1e25,
}


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", UNEVEN)
def test_lloyd_max_is_not_worse_than_statistical(name: str, bits: int, granularity: str) -> None:
    piece = UNEVEN[name].double()  # errors of 1e25 would leave the range of fp32 when squared
    errors = [
        relative_error(piece, kind=kind, bits=bits, granularity=granularity) for kind in ("lloyd_max", "statistical")
    ]
    slack = 1.03 if bits == 1 else 1.001  # of two equal tails, one level can serve but one: a local optimum
    assert errors[0] <= errors[1] * slack + 1e-7
