"""Triton kernels: by Triton's interpreter, compiled for an H100, and how much of a GPU's work the codecs are.

None of this needs a GPU.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from muloco.model.flavors import flavor
from muloco.outer.codecs import build_codec, error_feedback
from muloco.outer.codecs.channel import Channel
from muloco.outer.codecs.compression import Compression
from muloco.outer.codecs.kernels import Stack
from muloco.outer.codecs.lloyd import Grid
from muloco.outer.loop import digest_kernel
from muloco.outer.protocol.exchange import average

from ...covering import only
from .launches import Launches

ROWS, COLUMNS = 1024, 2816  # a matrix of the 416M flavor
ALL = [
    (kind, bits, granularity)
    for kind in ("linear", "statistical", "lloyd_max")
    for bits in (1, 4, 8)
    for granularity in ("tensor", "row")
]
all_codecs = pytest.mark.parametrize(("kind", "bits", "granularity"), ALL)


@pytest.mark.parametrize("which", only(["not full"], ["not full", "full"]))
def test_by_the_interpreter(which: str) -> None:
    tests = Path(__file__).parent / "interpreted.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, tests]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_host_says_where_pieces_begin_whatever_the_default_device() -> None:
    """On a GPU the starts are copied from page-locked host memory."""
    pieces = torch.zeros(6).split(2)
    with torch.device("meta"):
        assert Stack.of(pieces, 1, 2).starts.tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ("kind", "bits", "granularity", "shape"),
    [
        ("linear", 4, "row", (2, 16, 1000)),
        ("statistical", 8, "tensor", (2, 16, 1000)),
        ("lloyd_max", 1, "tensor", (1, 1, 1)),  # numbers that are 1 are constants to Triton
        ("lloyd_max", 4, "row", (2, 16, 1000)),
    ],
)
def test_kernels_compile_for_an_h100(kind: str, bits: int, granularity: str, shape, tmp_path, monkeypatch) -> None:
    """With the arguments that they are given; no division is approximate, and only additions to what is there (`add`)
    are fused with a product."""
    codec, launches = build_codec(kind, bits=bits, granularity=granularity), Launches(monkeypatch)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pieces = meta(*shape)
    codec.decode_pieces(codec.encode_pieces(pieces), pieces)
    assert len(launches.kernels) == (6 if kind == "lloyd_max" else 4)
    for kernel, arguments in launches.kernels:
        assembly = compiled(kernel, arguments)
        assert "fma.rn.f32" not in assembly and "div.full" not in assembly and "div.approx" not in assembly
    kernel, arguments = launches.kernels[-1]
    assert "fma.rn.f32" in compiled(kernel, {**arguments, "ADD": True})


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_the_digest_compiles_for_an_h100(dtype: torch.dtype, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    total, words = torch.empty((), dtype=torch.int64), torch.empty(9, dtype=dtype)
    assert compiled(digest_kernel._add, {"total": total, "words": words, "start": 2**40, "count": 9, "BLOCK": 4096})


def compiled(kernel: triton.JITFunction, arguments: dict) -> str:
    """The PTX of a kernel for these arguments, compiled as it would be at its launch."""
    types, constants = {}, {}
    pointers = {torch.uint8: "u8", torch.float32: "fp32", torch.float64: "fp64"}
    pointers |= {dtype: f"i{8 * dtype.itemsize}" for dtype in (torch.int8, torch.int16, torch.int32, torch.int64)}
    for number, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            types[parameter.name] = "*" + pointers[value.dtype]
        elif parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            types[parameter.name] = "constexpr"
            constants[(number,)] = value
        else:
            types[parameter.name] = "fp32" if isinstance(value, float) else "i32" if value < 2**31 else "i64"
    options = {"enable_fp_fusion": False}
    return triton.compile(ASTSource(kernel, types, constants), GPUTarget("cuda", 90, 32), options).asm["ptx"]


def meta(*shape: int) -> list[torch.Tensor]:
    return list(torch.empty(shape, device="meta"))


def work(monkeypatch: pytest.MonkeyPatch, action) -> tuple[int, int]:
    """Returns the launches and bytes of a function."""
    with monkeypatch.context() as patch, Launches(patch) as counted:
        action()
    return counted.total, counted.bytes


@all_codecs
def test_codecs_move_little_more_than_they_must(kind: str, bits: int, granularity: str, monkeypatch) -> None:
    """At most 2.5 times the floor, in bytes an element of a matrix:

    - 4 for its statistics: least and greatest element, mean and standard deviation are known after one reading of it;
    - 4 for its code, for which they have to be known; the sums of `statistical` come with it;
    - 4 between these for the histogram of `lloyd_max`, without which there are no levels to choose a code from;
    - the codes themselves, bits / 8;
    - a row's table of totals, 4 + 8 bytes a cell, once written and once read: next to nothing for a whole tensor.

    Decoding: the codes, and 4 for what is written. Error feedback: 12 more, as piece and residual are read and their
    sum is written, and 8 and the codes, as the sum is read again and written back with the decoded codes taken off.
    """
    elements = 12 * ROWS * COLUMNS
    cells = {"linear": 0, "statistical": 2**bits, "lloyd_max": Grid.of(COLUMNS, bits).cells}[kind]
    table = 24 * cells / COLUMNS if granularity == "row" else 0
    floor = (12 if kind == "lloyd_max" else 8) + bits / 8 + table
    codec, pieces = build_codec(kind, bits=bits, granularity=granularity), meta(12, ROWS, COLUMNS)
    payloads, left = meta_payloads(codec, pieces), torch.empty(12, ROWS, COLUMNS, device="meta")
    launches, moved = work(monkeypatch, lambda: codec.encode_pieces(pieces))
    assert moved / elements <= 2.5 * floor
    assert granularity == "row" or moved / elements <= 1.15 * floor
    assert launches <= 25
    launches, moved = work(monkeypatch, lambda: codec.decode_pieces(payloads, pieces))
    assert moved / elements <= 1.5 * (4 + bits / 8)
    assert launches <= 3
    launches, moved = work(monkeypatch, lambda: error_feedback.encode_pieces(codec, pieces, left))
    assert moved / elements <= 2.5 * (floor + 20 + bits / 8)
    assert launches <= 37


@pytest.mark.parametrize("chosen", [*ALL, ("topk", None, "tensor")], ids=str)
def test_launches_do_not_grow_with_equal_pieces(chosen: tuple, monkeypatch) -> None:
    kind, bits, granularity = chosen
    codec = build_codec(kind, bits=bits, granularity=granularity, fraction=0.1 if kind == "topk" else None)
    counts = []
    for number in (2, 24):
        pieces = meta(number, 96, 256)
        sent = meta_payloads(codec, pieces)
        encoding, _ = work(monkeypatch, lambda pieces=pieces: codec.encode_pieces(pieces))
        decoding, _ = work(monkeypatch, lambda pieces=pieces, sent=sent: codec.decode_pieces(sent, pieces))
        counts.append((encoding, decoding))
    assert counts[0] == counts[1]


class Deterministic(TorchDispatchMode):
    """Refuses what torch names nondeterministic on a GPU (`torch.use_deterministic_algorithms`), as far as it has no
    deterministic way for it in torch 2.11 and later; and what waits for the GPU, which tensors without data refuse."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        assert name not in ("put_", "histc", "bincount", "median", "index_add_", "scatter_reduce_"), name
        assert name not in ("scatter_add", "scatter_add_") or args[0].dim() == 1
        assert name not in ("cumsum", "cumsum_") or not args[0].is_floating_point()
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("chosen", [*ALL, ("topk", None, "tensor")], ids=str)
def test_nothing_is_left_to_chance(chosen: tuple, monkeypatch) -> None:
    kind, bits, granularity = chosen
    codec = build_codec(kind, bits=bits, granularity=granularity, fraction=0.1 if kind == "topk" else None)
    pieces = meta(3, 96, 256)
    with monkeypatch.context() as patch, Launches(patch), Deterministic():
        payloads, _ = error_feedback.encode_pieces(codec, pieces, torch.empty(3, 96, 256, device="meta"))
        codec.decode_pieces(payloads, pieces)


def meta_payloads(codec, pieces: list[torch.Tensor]) -> torch.Tensor:
    return torch.empty(len(pieces), codec.payload_bytes(pieces[0].shape), dtype=torch.uint8, device="meta")


class Members:
    """A round of eight members, with payloads without data."""

    rank, size, device = 3, 8, torch.device("meta")

    def exchange(self, outgoing: list[torch.Tensor], sizes: list[int]) -> list[torch.Tensor]:
        return [torch.empty(size, dtype=torch.uint8, device="meta") for size in sizes]


@pytest.mark.parametrize("kind", ["linear", "statistical", "lloyd_max"])
def test_a_sync_at_416m_is_a_few_hundred_launches(kind: str, monkeypatch) -> None:
    """4 bits, K = 8, error feedback on both sides; piece by piece there were 16266 (linear) to 61016 (lloyd_max)."""
    size = flavor("416M")
    width, inner = size.width, size.feed_forward_width
    layer = [*4 * [(width, width)], (inner, width), (width, inner), (inner, width), *4 * [(width,)]]
    shapes = [(size.vocabulary, width), *size.layers * layer, (width,), (size.vocabulary, width)]
    tensors = {str(number): torch.empty(shape, device="meta") for number, shape in enumerate(shapes)}
    norms = frozenset(name for name, tensor in tensors.items() if tensor.dim() == 1)
    channel = Channel(Compression(codec=build_codec(kind, bits=4), dense=norms, error_feedback=True), tensors)
    elements = sum(map(math.prod, shapes))
    flat = torch.empty(elements, device="meta")

    def sync() -> None:
        average(Members(), flat, channel.wire, [1] * 8, channel=channel)
        channel.commit()

    work(monkeypatch, sync)  # there are residuals from now on
    launches, moved = work(monkeypatch, sync)
    assert launches <= 800
    assert moved / elements <= 85
