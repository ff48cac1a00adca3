"""How `lloyd_max` fits the levels of a row: Lloyd's iteration on a fine histogram."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

ITERATIONS = 10
CAPPINGS = 8
WHOLE = 2**30  # the largest share in integers
BIAS_LEFT = 0x2A5137A0  # two thirds of the bias of exponents, in bits of fp32; a little less, for the least error
CELLS = 2**23  # cells that kernels process in one call
_MANTISSA, _BIAS = 23, 127  # of an fp32 number


@dataclass(frozen=True)
class Grid:
    """Cells for standard scores z, in order: of width 2^-fineness where |z| < 1, twice that where |z| < 3, and so on.

    The cell follows from the bits of the fp32 number |z| + 1: its exponent and the first `fineness` bits behind it.
    """

    fineness: int
    half: int
    """Cells on either side of 0."""

    @staticmethod
    def of(elements: int, bits: int) -> "Grid":
        """Fine enough for 2^bits levels, and in short rows with about as many cells as elements."""
        octaves = (math.isqrt(elements) + 2).bit_length()  # no score of n elements is above sqrt(n)
        affordable = (elements // (2 * octaves)).bit_length() - 1
        fineness = max(3, bits - 1, min(bits + 5, 11, affordable))
        return Grid(fineness, octaves << fineness)

    @property
    def cells(self) -> int:
        return 2 * self.half

    def cell(self, scores: Tensor) -> Tensor:
        """int32, of fp32 scores; the outermost cells take what lies beyond."""
        distance = (scores.abs() + 1).view(torch.int32).bitwise_right_shift_(_MANTISSA - self.fineness)
        distance = distance.sub_(_BIAS << self.fineness).clamp_max_(self.half - 1)
        return distance.bitwise_xor_(scores.view(torch.int32) >> 31).add_(self.half)


def scores_of(block: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """Returns the standard scores of a block, fp32 [r, n], given mean and standard deviation [r, 1]."""
    return (block - mean).div_(sigma).nan_to_num_(0.0, 0.0, 0.0)  # 0 / 0 in a constant row


def fit(grid: Grid, counts: Tensor, sums: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The levels for cells with these counts and sums [r, cells], all fp64.

    Returns:
        levels, fp64 [r, levels], ascending; and the first cell of each but the first, int64 [r, levels - 1].
    """
    means = sums / counts.clamp_min(1)
    counts_before, sums_before = pad(counts.cumsum(1), (1, 0)), pad(sums.cumsum(1), (1, 0))
    fitted = _first_guess(counts, means, levels)
    for _ in range(ITERATIONS):
        middles = (fitted[:, 1:] + fitted[:, :-1]) / 2
        starts = grid.cell(middles.float()).to(torch.int64)
        starts += means.gather(1, starts) < middles
        edges = pad(pad(starts, (1, 0)), (0, 1), value=grid.cells)
        inside = counts_before.gather(1, edges).diff(dim=1)
        average = sums_before.gather(1, edges).diff(dim=1) / inside.clamp_min(1)
        fitted = torch.where(inside > 0, average, fitted)
    return fitted, starts


def _first_guess(counts: Tensor, means: Tensor, levels: int) -> Tensor:
    """Returns the start values of the levels, [r, levels]: means of the cells that divide the cube root of the density
    into equal shares.

    The share of a filled cell is (elements / gap)^(1/3) x gap, where gap is its distance from the filled cell before.
    A gap that is wide enough for several levels counts for one, as it holds no elements. Shares are integers, so that
    their sums are exact and do not depend on the order.
    """
    filled = counts > 0
    reached = torch.where(filled, means, -torch.inf).cummax(1).values
    gaps = torch.where(filled, means - pad(reached, (1, -1), value=-torch.inf), 0.0)
    gaps = gaps.masked_fill_(gaps == torch.inf, 0.0).clamp_min_(0.0)  # before the first filled cell
    parts = _cube_root(gaps.square_().mul_(counts).float())
    shares = parts.mul_(WHOLE / parts.amax(1, keepdim=True).clamp_min_(1e-20)).floor_().double()
    for _ in range(CAPPINGS):
        torch.minimum(shares, shares.sum(1, keepdim=True).div_(levels).floor_().clamp_min_(1), out=shares)
    running = shares.cumsum(1)
    quantiles = (torch.arange(levels, dtype=torch.float64, device=counts.device) + 0.5) / levels
    wanted = (running[:, -1:] * quantiles).ceil_()
    cells = torch.searchsorted(running, wanted).clamp_max_(counts.shape[1] - 1)
    return means.gather(1, cells)


def _cube_root(values: Tensor) -> Tensor:
    """Returns the cube root of fp32 numbers of at least 0, within 0.2 %: a third of the exponent, then a step of
    Newton's method. These operations round in the same way on all devices."""
    guess = values.view(torch.int32).float().mul_(1 / 3).to(torch.int32).add_(BIAS_LEFT).view(torch.float32)
    better = (values / (guess * guess)).add_(guess + guess).mul_(1 / 3)
    return better.masked_fill_(values == 0, 0.0)


def codes_between(starts: Tensor, cells: int) -> Tensor:
    """uint8 [r, cells]: how many of the starts [r, levels - 1] each cell has reached."""
    steps = torch.zeros(len(starts), cells + 1, dtype=torch.int16, device=starts.device)
    rows = torch.arange(0, steps.numel(), cells + 1, device=starts.device).view(-1, 1)
    index = (starts + rows).view(-1)  # one dimension: for more, torch has no deterministic operation on a GPU
    steps.view(-1).scatter_add_(0, index, torch.ones_like(index, dtype=torch.int16))
    return steps.cumsum(1, dtype=torch.int16)[:, :-1].to(torch.uint8)
