"""Triton kernels of the quantized codecs: they process many pieces of one shape at once, on a GPU.

Elements are read once for statistics, once to count them into cells (`lloyd_max` only), and once for their codes, which
are written as packed bytes. No result depends on an order of summation that could vary: floating-point sums are taken
over blocks of a fixed size, whatever the number of pieces, and atomics only add integers. The host never waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from muloco.outer.codecs import rows as in_rows

ONE = tl.constexpr(in_rows.ONE)
LINEAR, STATISTICAL, CELLS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
"""Ways in which a code is computed from an element."""
_MANTISSA, _BIAS = tl.constexpr(23), tl.constexpr(127)  # of an fp32 number
_SHIFTER, _SHIFTER_BITS = tl.constexpr(1.5 * 2**23), tl.constexpr(0x4B400000)  # fp32 numbers of this size are integers

_BLOCK = 4096  # elements that a program processes for statistics and counts
_GROUPS = 256  # groups of eight elements that a program packs or unpacks
_LANES = 512  # largest number of tables of totals for a row; more tables mean fewer programs that wait for each other
_ELEMENTS_A_CELL = 64  # elements for each cell of a further table, so that tables take less traffic than elements


@dataclass(frozen=True)
class Stack:
    """fp32 pieces of one shape, each contiguous `rows` x `columns`, in one storage with `base`."""

    base: Tensor
    starts: Tensor
    """int64 [pieces]: offset of each piece from the first element of `base`, in elements."""
    rows: int
    columns: int

    @staticmethod
    def of(pieces: Sequence[Tensor], rows: int, columns: int) -> "Stack":
        """Returns the stack of contiguous fp32 tensors in one storage."""
        base = pieces[0]
        begin = base.storage_offset()
        starts = torch.tensor([piece.storage_offset() - begin for piece in pieces], device="cpu")
        if base.is_cuda:
            starts = starts.pin_memory()  # a copy from pageable memory would wait for the device
        return Stack(base, starts.to(base.device, non_blocking=True), rows, columns)

    @property
    def pieces(self) -> int:
        return len(self.starts)

    @property
    def all_rows(self) -> int:
        """Number of rows of all pieces together."""
        return self.pieces * self.rows

    def statistics(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the least and greatest element, mean and standard deviation (over n - 1; 0 if n = 1) of each row,
        each fp32 [all_rows, 1]. All four are NaN if an element of the row is not finite."""
        block = min(_BLOCK, triton.next_power_of_2(self.columns))
        chunks = triton.cdiv(self.columns, block)
        partials = torch.empty(self.all_rows, chunks, 4, dtype=torch.float64, device=self.base.device)
        found = torch.empty(4, self.all_rows, 1, device=self.base.device)
        _statistics[(self.all_rows * chunks,)](self.base, self.starts, partials, self.rows, self.columns, chunks, block)
        lanes = min(1024, triton.next_power_of_2(chunks))
        _combine[(self.all_rows,)](
            self.base, self.starts, partials, found, self.rows, self.columns, chunks, self.all_rows, lanes
        )
        return tuple(found.unbind())  # type: ignore[return-value]

    def count(self, mean: Tensor, sigma: Tensor, some: slice, fineness: int, half: int) -> tuple[Tensor, Tensor]:
        """Returns, for each of these rows, the number of scores (x - mean) / sigma in each cell (`lloyd_max`), int32
        [rows, 2 half], and their sum in units of 1 / ONE, int64 [rows, 2 half]."""
        first, rows = some.start, min(some.stop, self.all_rows) - some.start
        counts, sums, lanes = self._tables(rows, 2 * half)
        block = min(_BLOCK, triton.next_power_of_2(self.columns))
        chunks = triton.cdiv(self.columns, block)
        tensors = self.base, self.starts, mean, sigma, counts, sums
        _count[(rows * chunks,)](*tensors, first, self.rows, self.columns, chunks, lanes, half, fineness, block)
        return _of_all_lanes(counts), _of_all_lanes(sums)

    def pack_statistical(self, codes: Tensor, bits: int, mean: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Packs the codes round((x - mean) / step) + 2^bits / 2, clamped to 0 to 2^bits - 1; see `pack`.

        Returns:
            number of elements with each code, int32 [all_rows, 2^bits], and the sum of their (x - mean) / step in units
            of 1 / ONE, int64 [all_rows, 2^bits].
        """
        counts, sums, lanes = self._tables(self.all_rows, 2**bits)
        self.pack(codes, bits, mean, step, STATISTICAL, counts=counts, sums=sums, lanes=lanes)
        return _of_all_lanes(counts), _of_all_lanes(sums)

    def unpack(self, codes: Tensor, bits: int, metadata: Tensor, linear: bool, weight: float, add: bool) -> None:
        """Decodes packed codes: overwrites the elements by `weight` x the decoded values, or adds this to them.

        Args:
            codes: uint8 [pieces, bytes], with any stride between pieces.
            bits: number of bits of a code.
            metadata: fp32 [all_rows, 2], least element and step, if `linear`; else fp32 [all_rows, 2^bits], the level
                of each code.
            linear: whether codes count even steps, see `metadata`.
            weight: factor on the decoded values.
            add: whether to add to the elements instead of overwriting them.
        """
        elements = self.rows * self.columns
        blocks = triton.cdiv(elements, 8 * _GROUPS)
        tensors = self.base, self.starts, metadata, codes, codes.stride(0), codes.shape[1]
        sizes = self.rows, self.columns, elements, blocks
        how = weight, linear, add, bits, self.rows > 1, _GROUPS
        # a product and a sum are rounded separately, as in torch
        _unpack[(self.pieces * blocks,)](*tensors, *sizes, *how, enable_fp_fusion=False)

    def _tables(self, rows: int, cells: int) -> tuple[Tensor, Tensor, int]:
        lanes = max(1, min(_LANES, rows * self.columns // (_ELEMENTS_A_CELL * rows * cells)))
        counts = torch.zeros(rows, lanes, cells, dtype=torch.int32, device=self.base.device)
        return counts, torch.zeros(counts.shape, dtype=torch.int64, device=self.base.device), lanes

    def pack(
        self,
        codes: Tensor,
        bits: int,
        centre: Tensor,
        width: Tensor,
        kind: tl.constexpr,
        *,
        firsts: Tensor | None = None,
        counts: Tensor | None = None,
        sums: Tensor | None = None,
        lanes: int = 1,
        cells: tuple[int, int] = (0, 0),
    ) -> None:
        """Packs a code for each element x.

        Args:
            codes: uint8 [pieces, bytes], with any stride between pieces; overwritten.
            bits: of a code.
            centre, width: fp32 [all_rows, 1].
            kind: `LINEAR`: round((x - centre) / width). `STATISTICAL`: see `pack_statistical`. `CELLS`: the number of
                first cells that are at most the cell of (x - centre) / width.
            firsts: first cells, int32 [all_rows, 2^bits], ascending and without the last column.
            counts, sums, lanes: see `pack_statistical`.
            cells: fineness and half of their grid, see `lloyd.Grid`.
        """
        elements = self.rows * self.columns
        blocks = triton.cdiv(elements, 8 * _GROUPS)
        tensors = self.base, self.starts, centre, width, codes, codes.stride(0), codes.shape[1], firsts, counts, sums
        fineness, half = cells
        sizes = self.rows, self.columns, elements, blocks, lanes, half
        _pack[(self.pieces * blocks,)](
            *tensors, *sizes, kind.value, fineness, bits, self.rows > 1, _GROUPS, enable_fp_fusion=False
        )


def _of_all_lanes(totals: Tensor) -> Tensor:
    return totals.squeeze(1) if totals.shape[1] == 1 else totals.sum(1, dtype=totals.dtype)


@triton.jit
def _statistics(values, starts, partials, rows, columns, chunks, BLOCK: tl.constexpr):
    """Computes for a block of a row its least and greatest element and the sums of d and d^2, where d is the difference
    from the first element of the row."""
    program = tl.program_id(0)
    row, chunk = program // chunks, program % chunks
    begin = values + tl.load(starts + row // rows) + (row % rows).to(tl.int64) * columns
    column = chunk.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(begin + column, mask=inside, other=0.0)
    distance = tl.where(inside, value.to(tl.float64) - tl.load(begin).to(tl.float64), 0.0)
    out = partials + program.to(tl.int64) * 4
    tl.store(out, tl.min(tl.where(inside, value, float("inf")), 0).to(tl.float64))
    tl.store(out + 1, tl.max(tl.where(inside, value, float("-inf")), 0).to(tl.float64))
    tl.store(out + 2, tl.sum(distance, 0))
    tl.store(out + 3, tl.sum(distance * distance, 0))


@triton.jit
def _combine(values, starts, partials, found, rows, columns, chunks, all_rows, LANES: tl.constexpr):
    """Combines the results of the blocks of a row. d is the difference from an element of the row, so the sum of d^2 is
    at most n + 1 times the sum of squares about the mean, and fp64 has enough digits."""
    row = tl.program_id(0)
    lane = tl.arange(0, LANES)
    least = tl.full((LANES,), float("inf"), tl.float64)
    greatest = tl.full((LANES,), float("-inf"), tl.float64)
    total = tl.zeros((LANES,), tl.float64)
    squares = tl.zeros((LANES,), tl.float64)
    for first in range(0, chunks, LANES):
        inside = first + lane < chunks
        part = partials + (row.to(tl.int64) * chunks + first + lane) * 4
        least = tl.minimum(least, tl.load(part, mask=inside, other=float("inf")))
        greatest = tl.maximum(greatest, tl.load(part + 1, mask=inside, other=float("-inf")))
        total += tl.load(part + 2, mask=inside, other=0.0)
        squares += tl.load(part + 3, mask=inside, other=0.0)
    shift = tl.load(values + tl.load(starts + row // rows) + (row % rows).to(tl.int64) * columns).to(tl.float64)
    distance = tl.sum(total, 0)
    variance = (tl.sum(squares, 0) - distance * distance / columns) / tl.maximum(columns - 1, 1)
    finite = tl.abs(distance) < float("inf")  # as sums of finite fp32 numbers are in fp64
    missing = float("nan")
    tl.store(found + row, tl.where(finite, tl.min(least, 0), missing).to(tl.float32))
    tl.store(found + all_rows + row, tl.where(finite, tl.max(greatest, 0), missing).to(tl.float32))
    tl.store(found + 2 * all_rows + row, tl.where(finite, shift + distance / columns, missing).to(tl.float32))
    sigma = tl.sqrt(tl.maximum(variance, 0.0))
    tl.store(found + 3 * all_rows + row, tl.where(finite, sigma, missing).to(tl.float32))


@triton.jit
def _score(value, centre, width):
    """Returns (value - centre) / width, rounded as in torch; 0 if it is not finite."""
    score = tl.math.div_rn(value - centre, width)
    return tl.where(tl.abs(score) < float("inf"), score, 0.0)


@triton.jit
def cell_of(score, half, FINENESS: tl.constexpr):
    """Returns the cell of a score, see `lloyd.Grid`."""
    distance = (tl.abs(score) + 1.0).to(tl.int32, bitcast=True) >> (_MANTISSA - FINENESS)
    distance = tl.minimum(distance - (_BIAS << FINENESS), half - 1)
    return (distance ^ (score.to(tl.int32, bitcast=True) >> 31)) + half


@triton.jit
def _nearest(value):
    """Rounds fp32 numbers of magnitude below 2^22 to the nearest integer, int32, and ties to the even one."""
    return (value + _SHIFTER).to(tl.int32, bitcast=True) - _SHIFTER_BITS


@triton.jit
def _add_up(counts, sums, at, value, inside):
    tl.atomic_add(counts + at, tl.full(at.shape, 1, tl.int32), mask=inside, sem="relaxed")
    tl.atomic_add(sums + at, (value * ONE).to(tl.int64), mask=inside, sem="relaxed")


@triton.jit
def _count(
    values,
    starts,
    means,
    sigmas,
    counts,
    sums,
    first,
    rows,
    columns,
    chunks,
    lanes,
    half,
    FINENESS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    table, chunk = program // chunks, program % chunks
    row = first + table
    begin = values + tl.load(starts + row // rows) + (row % rows).to(tl.int64) * columns
    column = chunk.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(begin + column, mask=inside, other=0.0)
    score = _score(value, tl.load(means + row), tl.load(sigmas + row))
    at = (table.to(tl.int64) * lanes + chunk % lanes) * (2 * half) + cell_of(score, half, FINENESS)
    _add_up(counts, sums, at, score, inside)


@triton.jit
def _elements(program, rows, columns, elements, blocks, BY_ROW: tl.constexpr, GROUPS: tl.constexpr):
    """Returns what a program processes: the piece, groups [GROUPS], elements [GROUPS, 8], a mask of the elements that
    exist, and their rows (one number if a piece is one row)."""
    piece, block = program // blocks, program % blocks
    first = block.to(tl.int64) * (8 * GROUPS)
    within = tl.arange(0, GROUPS)[:, None] * 8 + tl.arange(0, 8)[None, :]
    inside = first + within < elements
    row = (piece * rows).to(tl.int64)
    if BY_ROW:
        row += tl.minimum(first // columns + ((first % columns).to(tl.int32) + within) // columns, rows - 1)
    return piece.to(tl.int64), block.to(tl.int64) * GROUPS + tl.arange(0, GROUPS), first + within, inside, row


@triton.jit
def _pack(
    values,
    starts,
    centres,
    widths,
    codes,
    stride,
    packed,
    firsts,
    counts,
    sums,
    rows,
    columns,
    elements,
    blocks,
    lanes,
    half,
    KIND: tl.constexpr,
    FINENESS: tl.constexpr,
    BITS: tl.constexpr,
    BY_ROW: tl.constexpr,
    GROUPS: tl.constexpr,
):
    program = tl.program_id(0)
    piece, group, element, inside, row = _elements(program, rows, columns, elements, blocks, BY_ROW, GROUPS)
    LEVELS: tl.constexpr = 2**BITS
    value = tl.load(values + tl.load(starts + piece) + element, mask=inside, other=0.0)
    centre = tl.load(centres + row)
    width = tl.load(widths + row)
    if KIND == LINEAR:
        steps = tl.math.div_rn(value - centre, width)
        steps = tl.where(steps == steps, steps, 0.0)
        code = _nearest(tl.minimum(tl.maximum(steps, 0.0), LEVELS - 1.0))
    elif KIND == STATISTICAL:
        steps = _score(value, centre, width)
        code = _nearest(tl.minimum(tl.maximum(steps, -LEVELS / 2), LEVELS / 2 - 1.0)) + LEVELS // 2
        lane = (program % blocks) % lanes
        _add_up(counts, sums, (row * lanes + lane) * LEVELS + code, steps, inside)
    else:
        cell = cell_of(_score(value, centre, width), half, FINENESS)
        code = tl.zeros_like(cell)
        for bit in tl.static_range(BITS):  # from the highest
            first = tl.load(firsts + row * LEVELS + code + (LEVELS >> (bit + 1)) - 1)
            code += tl.where(first <= cell, LEVELS >> (bit + 1), 0)
    places = (tl.arange(0, 8) * BITS).to(tl.int64)[None, :]
    word = tl.sum(tl.where(inside, code, 0).to(tl.int64) << places, 1)
    for byte in tl.static_range(BITS):
        at = group * BITS + byte
        tl.store(codes + piece * stride + at, ((word >> (8 * byte)) & 255).to(tl.uint8), mask=at < packed)


@triton.jit
def _unpack(
    values,
    starts,
    metadata,
    codes,
    stride,
    packed,
    rows,
    columns,
    elements,
    blocks,
    weight,
    LINEAR_STEPS: tl.constexpr,
    ADD: tl.constexpr,
    BITS: tl.constexpr,
    BY_ROW: tl.constexpr,
    GROUPS: tl.constexpr,
):
    program = tl.program_id(0)
    piece, group, element, inside, row = _elements(program, rows, columns, elements, blocks, BY_ROW, GROUPS)
    LEVELS: tl.constexpr = 2**BITS
    word = tl.zeros((GROUPS,), tl.int64)
    for byte in tl.static_range(BITS):
        at = group * BITS + byte
        word |= tl.load(codes + piece * stride + at, mask=at < packed, other=0).to(tl.int64) << (8 * byte)
    places = (tl.arange(0, 8) * BITS).to(tl.int64)[None, :]
    code = (word[:, None] >> places) & (LEVELS - 1)
    if LINEAR_STEPS:
        value = code.to(tl.float32) * tl.load(metadata + row * 2 + 1) + tl.load(metadata + row * 2)
    else:
        value = tl.load(metadata + row * LEVELS + code, mask=inside, other=0.0)
    out = values + tl.load(starts + piece) + element
    value = tl.fma(value, weight, tl.load(out, mask=inside, other=0.0)) if ADD else value * weight
    tl.store(out, value, mask=inside)
