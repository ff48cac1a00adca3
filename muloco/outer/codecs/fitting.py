"""The Triton kernel that fits the levels of `lloyd_max`: the operations of `lloyd.fit`, which give the same bits."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muloco.outer.codecs import lloyd
from muloco.outer.codecs.kernels import ONE, cell_of

_CHUNK = 1024  # cells that a program processes at a time
_ITERATIONS = tl.constexpr(lloyd.ITERATIONS)
_CAPPINGS = tl.constexpr(lloyd.CAPPINGS)
_WHOLE = tl.constexpr(lloyd.WHOLE)
_BIAS_LEFT = tl.constexpr(lloyd.BIAS_LEFT)


def fit(counts: Tensor, sums: Tensor, fineness: int, levels: Tensor, starts: Tensor) -> None:
    """Fits the levels of each row; one program for each row.

    Args:
        counts: int32 [r, cells], number of elements in each cell; overwritten.
        sums: int64 [r, cells], sum of their scores in units of 1 / ONE; overwritten.
        fineness: fineness of the grid, see `lloyd.Grid`.
        levels: fp64 [r, L], overwritten by the levels.
        starts: int32 [r, L], overwritten: the first cell of each level but the first one; the last column is not used.
    """
    rows, cells = counts.shape
    shares = torch.empty(rows, cells, device=counts.device)
    running = torch.empty(rows, cells, dtype=torch.int64, device=counts.device)
    chunk = min(_CHUNK, triton.next_power_of_2(cells))
    tensors = counts, sums, shares, running, levels, starts
    # products and sums are rounded separately, as in torch
    _fit[(rows,)](*tensors, cells, fineness, cells.bit_length(), levels.shape[1], chunk, enable_fp_fusion=False)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _cube_root(value):
    third = tl.full((), 1 / 3, tl.float32)
    bits = (value.to(tl.int32, bitcast=True).to(tl.float32) * third).to(tl.int32) + _BIAS_LEFT
    guess = bits.to(tl.float32, bitcast=True)
    return tl.where(value == 0.0, 0.0, (tl.math.div_rn(value, guess * guess) + (guess + guess)) * third)


@triton.jit
def _mean(count, total):
    return total.to(tl.float64) / ONE / tl.maximum(count, 1).to(tl.float64)


@triton.jit
def _before(running, cell):
    """Returns the sum over all cells below `cell`, from the running sums."""
    return tl.load(running + cell - 1, mask=cell > 0, other=0)


@triton.jit
def _share(shares, cell, cells, scale):
    return (tl.load(shares + cell, mask=cell < cells, other=0.0) * scale).to(tl.int32)


@triton.jit
def _fit(
    counts,
    sums,
    shares,
    running,
    levels,
    starts,
    cells,
    FINENESS: tl.constexpr,
    STEPS: tl.constexpr,
    LEVELS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    counts += row * cells
    sums += row * cells
    shares += row * cells
    running += row * cells
    place = tl.arange(0, CHUNK)

    # cube roots of the density; counts and sums become running sums
    peak = tl.full((), 0.0, tl.float32)
    reached = tl.full((), float("-inf"), tl.float64)  # the mean of the last filled cell
    count_before = tl.full((), 0, tl.int32)
    sum_before = tl.full((), 0, tl.int64)
    for first in range(0, cells, CHUNK):
        cell = first + place
        inside = cell < cells
        count = tl.load(counts + cell, mask=inside, other=0)
        total = tl.load(sums + cell, mask=inside, other=0)
        mean = _mean(count, total)
        filled = tl.where(count > 0, mean, float("-inf"))
        highest = tl.associative_scan(filled, 0, _larger)
        previous = tl.where(place > 0, tl.gather(highest, tl.maximum(place - 1, 0), 0), float("-inf"))
        previous = tl.maximum(previous, reached)
        gap = tl.where((count > 0) & (previous > float("-inf")), mean - previous, 0.0)
        gap = tl.maximum(gap, 0.0)
        share = _cube_root((gap * gap * count.to(tl.float64)).to(tl.float32))
        tl.store(shares + cell, share, mask=inside)
        tl.store(counts + cell, tl.cumsum(count, 0) + count_before, mask=inside)
        tl.store(sums + cell, tl.cumsum(total, 0) + sum_before, mask=inside)
        peak = tl.maximum(peak, tl.max(share, 0))
        reached = tl.maximum(reached, tl.max(filled, 0))
        count_before += tl.sum(count, 0)
        sum_before += tl.sum(total, 0)
    tl.debug_barrier()

    # shares as integers, none above what a level has, and their running sum
    scale = tl.math.div_rn(tl.full((), _WHOLE, tl.float32), tl.maximum(peak, 1e-20))
    most = tl.full((), _WHOLE, tl.int64)
    for _ in range(_CAPPINGS):
        whole = tl.full((), 0, tl.int64)
        for first in range(0, cells, CHUNK):
            share = tl.minimum(_share(shares, first + place, cells, scale).to(tl.int64), most)
            whole += tl.sum(share, 0)
        most = tl.minimum(most, tl.maximum(whole // LEVELS, 1))
    whole = tl.full((), 0, tl.int64)
    for first in range(0, cells, CHUNK):
        share = tl.minimum(_share(shares, first + place, cells, scale).to(tl.int64), most)
        tl.store(running + first + place, tl.cumsum(share, 0) + whole, mask=first + place < cells)
        whole += tl.sum(share, 0)
    tl.debug_barrier()

    # the cell at which each level's share ends
    level = tl.arange(0, LEVELS)
    wanted = tl.ceil(whole.to(tl.float64) * ((level.to(tl.float64) + 0.5) / LEVELS)).to(tl.int64)
    low = tl.zeros((LEVELS,), tl.int32)
    high = tl.full((LEVELS,), cells, tl.int32)
    for _ in range(STEPS):
        middle = (low + high) // 2
        below = (low < high) & (tl.load(running + middle, mask=middle < cells, other=0) < wanted)
        high = tl.where(below | (low >= high), high, middle)
        low = tl.where(below, middle + 1, low)
    cell = tl.minimum(low, cells - 1)
    fitted = _mean(_before(counts, cell + 1) - _before(counts, cell), _before(sums, cell + 1) - _before(sums, cell))

    # Lloyd's iteration
    start = tl.zeros((LEVELS,), tl.int32)
    for _ in range(_ITERATIONS):
        boundary = (tl.gather(fitted, tl.minimum(level + 1, LEVELS - 1), 0) + fitted) / 2
        start = cell_of(boundary.to(tl.float32), cells // 2, FINENESS)
        mean = _mean(
            _before(counts, start + 1) - _before(counts, start), _before(sums, start + 1) - _before(sums, start)
        )
        start += (mean < boundary).to(tl.int32)
        end = tl.where(level < LEVELS - 1, start, cells)
        begin = tl.where(level > 0, tl.gather(end, tl.maximum(level - 1, 0), 0), 0)
        inside = _before(counts, end) - _before(counts, begin)
        fitted = tl.where(inside > 0, _mean(inside, _before(sums, end) - _before(sums, begin)), fitted)
    tl.store(levels + row * LEVELS + level, fitted)
    tl.store(starts + row * LEVELS + level, start)
