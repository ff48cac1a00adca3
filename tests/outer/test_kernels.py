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
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from muloco.model.flavors import flavor
from muloco.outer import digest_kernel, error_feedback
from muloco.outer.codecs import build_codec
from muloco.outer.codecs.lloyd_max import _Grid
from muloco.outer.compression import Compression
from muloco.outer.exchange import average

from .launches import Launches

ROWS, COLUMNS = 1024, 2816  # a matrix of the 416M flavor
ALL = [
    (kind, bits, granularity)
    for kind in ("linear", "statistical", "lloyd_max")
    for bits in (1, 4, 8)
    for granularity in ("tensor", "row")
]
all_codecs = pytest.mark.parametrize(("kind", "bits", "granularity"), ALL)


def test_by_the_interpreter() -> None:
    tests = Path(__file__).parent / "interpreted.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@all_codecs
def test_kernels_compile_for_an_h100(kind: str, bits: int, granularity: str, tmp_path, monkeypatch) -> None:
    """With the arguments that they are given, for single elements, too; no division is approximate, and only additions
    to what is there (`add`) are fused with a product."""
    codec, launches = build_codec(kind, bits=bits, granularity=granularity), Launches(monkeypatch)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for pieces in (meta(1, 1, 1), meta(2, 16, 1000)):
        codec.decode_pieces(codec.encode_pieces(pieces), pieces)
    assert len(launches.kernels) >= 8
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
    """Launches and bytes of what a function does."""
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
    cells = {"linear": 0, "statistical": 2**bits, "lloyd_max": _Grid.of(COLUMNS, bits).cells}[kind]
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
    for number in (2, 32):
        pieces = meta(number, 96, 256)
        sent = meta_payloads(codec, pieces)
        encoding, _ = work(monkeypatch, lambda pieces=pieces: codec.encode_pieces(pieces))
        decoding, _ = work(monkeypatch, lambda pieces=pieces, sent=sent: codec.decode_pieces(sent, pieces))
        counts.append((encoding, decoding))
    assert counts[0] == counts[1]


def meta_payloads(codec, pieces: list[torch.Tensor]) -> torch.Tensor:
    return torch.empty(len(pieces), codec.payload_bytes(pieces[0].shape), dtype=torch.uint8, device="meta")


class Members:
    """A round of eight members whose payloads have no data."""

    rank, size, device = 3, 8, torch.device("meta")

    def exchange(self, outgoing: list[torch.Tensor], sizes: list[int]) -> list[torch.Tensor]:
        return [torch.empty(size, dtype=torch.uint8, device="meta") for size in sizes]


@pytest.mark.parametrize("kind", ["linear", "statistical", "lloyd_max"])
def test_a_sync_at_416m_is_a_few_hundred_launches(kind: str, monkeypatch) -> None:
    """4 bits, K = 8, error feedback on both sides; piece by piece there were 9727 (linear) to 44254 (lloyd_max)."""
    size = flavor("416M")
    width, inner = size.width, size.feed_forward_width
    layer = [*4 * [(width, width)], (inner, width), (width, inner), (inner, width), *4 * [(width,)]]
    shapes = [(size.vocabulary, width), *size.layers * layer, (width,), (size.vocabulary, width)]
    tensors = {str(number): torch.empty(shape, device="meta") for number, shape in enumerate(shapes)}
    norms = frozenset(name for name, tensor in tensors.items() if tensor.dim() == 1)
    wire = Compression(codec=build_codec(kind, bits=4), dense=norms, error_feedback=True).wire(tensors)
    elements = sum(map(math.prod, shapes))
    flat = torch.empty(elements, device="meta")

    def sync() -> None:
        average(Members(), flat, wire, [1] * 8)
        for residual in wire.residuals.values():
            residual.commit()

    work(monkeypatch, sync)  # there are residuals from now on
    launches, moved = work(monkeypatch, sync)
    assert launches <= 500
    assert moved / elements <= 85
