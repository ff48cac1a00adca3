"""Triton kernels of the codecs and of the digest, on a CPU by Triton's interpreter.

`test_kernels.py` runs these tests in a process of their own, as Triton has to be told when it is loaded.
"""

import math
import os
from collections import Counter

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from muloco.outer.codecs import build_codec, error_feedback, fitting, quantized
from muloco.outer.codecs.kernels import Stack
from muloco.outer.loop import digest as digests
from muloco.outer.loop import digest_kernel

from ...covering import only

assert os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.filterwarnings(
    "ignore:(invalid value|divide by zero) encountered:RuntimeWarning"
)  # 0 / 0, as on a GPU

SETTINGS = [
    {"kind": kind, "bits": bits, "granularity": granularity}
    for kind in ("linear", "statistical", "lloyd_max")
    for bits, granularity in ((1, "tensor"), (3, "row"), (8, "tensor"))
]
all_settings = pytest.mark.parametrize(
    "chosen",
    only([SETTINGS[0], SETTINGS[4], SETTINGS[6]], SETTINGS),
    ids=lambda chosen: "-".join(map(str, chosen.values())),
)
SHAPES = [(), (1,), (2, 9), (2, 3, 5), (2, 700), (4400,)]


@pytest.fixture(autouse=True, scope="module")
def fast_maxima():
    """The interpreter takes running maxima element by element; long ones are left to numpy."""
    slow = interpreter.ScanOps.generic_scan

    def scan(self, values):
        (value,) = values
        if value.handle.data.size <= 64:
            return slow(self, values)
        assert self.combine_fn.fn.__name__ == "_larger"
        return [self.to_tensor(np.maximum.accumulate(value.handle.data, axis=self.axis), value.dtype)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.ScanOps, "generic_scan", scan)
        yield


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch):
    """After `kernels(True)` codecs use their kernels, as on a GPU."""
    torch.set_num_threads(1)
    return lambda chosen: monkeypatch.setattr(quantized, "takes_kernels", lambda device: chosen)


def exact(count: int, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Pieces [count, *shape] whose means and squares have no rounding error in fp32, in whatever order they are added
    up: eighths from -1 to 1, each with its negative beside it (and the last of an odd number of elements 0)."""
    generator = torch.Generator().manual_seed(seed)
    pieces = torch.randint(-8, 9, (count, *shape), generator=generator) / 8.0
    flat = pieces.view(-1, math.prod(shape[1:] if len(shape) > 1 else shape))
    half = flat.shape[1] // 2
    flat[:, half : 2 * half] = -flat[:, :half]
    flat[:, 2 * half :] = 0
    if half:
        flat[:, 0], flat[:, half] = 1.0, -1.0  # what fp32 sums are scaled by is a power of two
    return pieces


def gaussian(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@all_settings
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_payloads_are_those_of_the_cpu(chosen: dict, shape, kernels) -> None:
    """Returns pieces with gaps between them in one vector."""
    codec, pieces = build_codec(**chosen), exact(2, shape)
    kernels(False)
    expected = codec.encode_pieces(pieces.unbind())
    elements = pieces[0].numel()
    flat = torch.full((2 * elements + 7,), 1e9)
    apart = [flat[start : start + elements].view(shape) for start in (elements + 4, 1)]
    for target, piece in zip(apart, pieces, strict=True):
        target.copy_(piece)
    kernels(True)
    assert torch.equal(codec.encode_pieces(apart), expected)


@all_settings
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decoded_are_the_numbers_of_the_cpu(chosen: dict, shape, kernels) -> None:
    codec, pieces = build_codec(**chosen), gaussian(2, *shape)
    kernels(False)
    payloads = codec.encode_pieces(pieces.unbind())
    for options in ({}, {"weight": 0.3}, {"weight": -0.5, "add": True}):
        expected, got = torch.ones_like(pieces), torch.ones_like(pieces)
        kernels(False)
        codec.decode_pieces(payloads, expected.unbind(), **options)
        kernels(True)
        codec.decode_pieces(payloads, got.unbind(), **options)
        assert torch.equal(got, expected), options


@all_settings
def test_many_pieces_have_the_bits_of_single_ones(chosen: dict, kernels) -> None:
    """Random numbers, with error feedback."""
    kernels(True)
    codec, pieces, residual = build_codec(**chosen), gaussian(2, 2, 1500) ** 3, gaussian(2, 2, 1500) / 9
    payloads, left = error_feedback.encode_pieces(codec, pieces.unbind(), residual)
    for piece, before, payload, after in zip(pieces, residual, payloads, left, strict=True):
        single, rest = error_feedback.encode(codec, piece.clone(), before.clone())
        assert torch.equal(payload, single) and torch.equal(after, rest)


@all_settings
def test_errors_are_those_of_the_cpu(chosen: dict, kernels) -> None:
    codec, piece, errors = build_codec(**chosen), gaussian(2, 4321) + 0.5, []
    for chosen_kernels in (False, True):
        kernels(chosen_kernels)
        decoded = codec.decode(codec.encode(piece), piece.shape)
        errors.append(float((decoded - piece).square().sum()))
    assert errors[1] == pytest.approx(errors[0], rel=1e-5)


@all_settings
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_visible(chosen: dict, value: float, kernels) -> None:
    kernels(True)
    codec, pieces = build_codec(**chosen), gaussian(2, 2, 50)
    pieces[1, 1, 7] = value
    decoded = torch.empty_like(pieces)
    codec.decode_pieces(codec.encode_pieces(pieces.unbind()), decoded.unbind())
    assert decoded[0].isfinite().all()
    if chosen["granularity"] == "row":
        assert decoded[1, 1].isnan().all() and decoded[1, 0].isfinite().all()
    else:
        assert decoded[1].isnan().all()


@all_settings
@pytest.mark.parametrize("value", [0.0, 0.1, -3e-30, 7e20])
def test_constants_survive(chosen: dict, value: float, kernels) -> None:
    kernels(True)
    codec, piece = build_codec(**chosen), torch.full((2, 301), value)
    assert torch.equal(codec.decode(codec.encode(piece), piece.shape), piece)


@pytest.mark.parametrize("columns", [1, 2, 1000, 4096, 9000])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, 1e3), (1e-30, 0.0), (1e30, -1e30)])
def test_statistics(columns: int, scale: float, shift: float) -> None:
    rows = (scale * gaussian(2, columns) + shift).clone()
    rows[1, 0] += 1e6 * scale  # the first element of a row is the one that others are compared with
    least, greatest, mean, sigma = Stack.of([rows], 2, columns).statistics()
    exactly = rows.double()
    assert torch.equal(least, rows.amin(1, keepdim=True)) and torch.equal(greatest, rows.amax(1, keepdim=True))
    torch.testing.assert_close(mean, exactly.mean(1, keepdim=True).float(), rtol=2e-7, atol=1e-7 * scale)
    deviation = exactly.std(1, keepdim=True).nan_to_num(0.0) if columns > 1 else torch.zeros(2, 1)
    torch.testing.assert_close(sigma, deviation.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
def test_digests_are_those_of_the_cpu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [(100 * gaussian(*shape)).to(dtype) for shape in ((3, 5), (), (0,), (9001,), (4096,), (5, 7))]
    tensors.append(tensors[-1].t())
    expected = digests.digest(tensors)
    monkeypatch.setattr(digests, "_add_to", lambda total: digest_kernel.add)
    assert torch.equal(digests.digest(tensors), expected)


# -- bytes


class Traffic:
    """Counts what the interpreter loads and stores: bytes of the distinct addresses of each instruction of a program,
    as caches serve the others; and atomic additions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.moved: Counter[str] = Counter()
        builder = interpreter.InterpreterBuilder

        def distinct(pointers, mask) -> int:
            return len(np.unique(pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]))

        def watch(name: str, count) -> None:
            inner = getattr(builder, name)

            def counted(builder, *args, **kwargs):
                count(*args)
                return inner(builder, *args, **kwargs)

            monkeypatch.setattr(builder, name, counted)

        def size(pointers) -> int:
            return pointers.get_element_ty().primitive_bitwidth // 8

        watch("create_masked_load", lambda p, mask, *_: self._add("read", size(p) * distinct(p, mask)))
        watch("create_masked_store", lambda p, value, mask, *_: self._add("written", size(p) * distinct(p, mask)))
        watch("create_atomic_rmw", lambda op, p, value, mask, *_: self._add("atomics", int(mask.data.sum())))

    def _add(self, what: str, amount: int) -> None:
        self.moved[what] += amount


ELEMENTS = 2 * 8 * 4096


@pytest.mark.parametrize("granularity", only(["row"], ["tensor", "row"]))
@pytest.mark.parametrize(
    ("kind", "read", "atomics"), [("linear", 8, 0), ("statistical", 8, 2), ("lloyd_max", 12, 2)], ids=str
)
def test_each_element_is_read_once_a_pass(kind: str, read: int, atomics: int, granularity: str, monkeypatch) -> None:
    """For statistics, counts (lloyd_max) and codes; beside them next to nothing of metadata. What is written is the
    payload's codes. The fit of `lloyd_max` reads and writes tables of cells alone."""
    monkeypatch.setattr(quantized, "takes_kernels", lambda device: True)
    codec, pieces = build_codec(kind, bits=4, granularity=granularity), gaussian(2, 8, 4096)
    fitted = []
    monkeypatch.setattr(fitting, "fit", lambda *args: fitted.append(args))
    traffic = Traffic(monkeypatch)
    payloads = codec.encode_pieces(pieces.unbind())
    assert len(fitted) == (kind == "lloyd_max")
    assert read <= traffic.moved["read"] / ELEMENTS <= read + 0.2
    assert 0.5 <= traffic.moved["written"] / ELEMENTS <= 0.55
    assert traffic.moved["atomics"] == atomics * ELEMENTS
    traffic.moved.clear()
    codec.decode_pieces(payloads, pieces.unbind(), weight=0.5, add=True)
    assert 4.5 <= traffic.moved["read"] / ELEMENTS <= 4.6 and traffic.moved["written"] / ELEMENTS == 4


def test_a_digest_reads_each_element_once(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = Traffic(monkeypatch)
    monkeypatch.setattr(digests, "_add_to", lambda total: digest_kernel.add)
    digests.digest([gaussian(20000)])
    assert traffic.moved["read"] == 4 * 20000 and not traffic.moved["written"] and traffic.moved["atomics"] == 5
