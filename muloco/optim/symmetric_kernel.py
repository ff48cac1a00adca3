"""The Triton kernel of `muloco.optim.symmetric`: it computes one triangle of a symmetric product and mirrors it."""

import subprocess
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

__all__ = ["Tile", "TritonError", "launch", "obstacle", "tiles"]

INTERPRETED = triton.knobs.runtime.interpret
"""Whether Triton was imported with TRITON_INTERPRET=1, so that kernels run on the CPU."""


@dataclass(frozen=True)
class Tile:
    """The sizes into which the kernel divides its work."""

    rows: int
    """Number of rows and of columns of a square tile of the result."""
    depth: int
    """Number of columns of the left factor that are loaded at a time."""
    warps: int
    stages: int
    """Number of loads in flight; each takes 2 x rows x depth elements of shared memory."""


def tiles(dtype: torch.dtype) -> tuple[Tile, ...]:
    """Returns the tiles that `auto` times for a dtype. `triton` uses the first one, whose shared memory every device
    with bfloat16 products has."""
    if dtype.itemsize > 2:
        return Tile(128, 32, warps=8, stages=3), Tile(64, 32, warps=4, stages=3)
    return Tile(128, 64, warps=8, stages=3), Tile(128, 64, warps=4, stages=4), Tile(64, 64, warps=4, stages=4)


def obstacle(device: torch.device) -> str | None:
    """Returns why the kernel cannot run on a device, as part of a message; None if it can."""
    if INTERPRETED:
        return None
    if device.type != "cuda":
        return f"it needs a CUDA device, not {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"it needs a device with bfloat16 products, not {torch.cuda.get_device_name(device)}"
    return _driver_error()


@cache
def _driver_error() -> str | None:
    """Returns why Triton cannot use the CUDA driver; None if it can. On first use Triton compiles a module for it,
    which needs a C compiler and Python's headers."""
    try:
        triton.runtime.driver.active.get_current_device()
    except (RuntimeError, OSError, ImportError, subprocess.CalledProcessError) as error:
        return f"Triton cannot build its access to the driver: {error}"
    return None


def launch(
    left: Tensor, right: Tensor, out: Tensor, *, alpha: float, diagonal: float, tile: Tile, tensor_float_32: bool
) -> None:
    """Launches the kernel; the arguments are those of `muloco.optim.symmetric.symmetric_product`."""
    batch, n, depth = left.shape
    count = triton.cdiv(n, tile.rows)
    count = count * (count + 1) // 2
    _triangle[(batch * count,)](
        left,
        right,
        out,
        n,
        depth,
        *left.stride(),
        *right.stride(),
        *out.stride(),
        count,
        float(alpha),  # Triton would compile an integer 1 in as a constant
        float(diagonal),
        ROWS=tile.rows,
        DEPTH=tile.depth,
        PRECISION="tf32" if tensor_float_32 else "ieee",
        num_warps=tile.warps,
        num_stages=tile.stages,
        enable_fp_fusion=True,  # products in float32 are made of fused multiply-adds
    )


@triton.jit
def _triangle(
    left,
    right,
    out,
    n,
    depth,
    left_batch,
    left_row,
    left_column,
    right_batch,
    right_row,
    right_column,
    out_batch,
    out_row,
    out_column,
    count,
    alpha,
    diagonal,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Computes one tile on or below the diagonal of one matrix of the batch, and writes its mirror image, too.

    `count` tiles of a matrix are numbered row by row: tile t is in the largest row r with r (r + 1) / 2 <= t.
    """
    number = tl.program_id(0) % count
    batch = (tl.program_id(0) // count).to(tl.int64)
    down = ((tl.sqrt(8.0 * number.to(tl.float32) + 1.0) - 1.0) / 2.0).to(tl.int32)
    down = tl.where(down * (down + 1) // 2 > number, down - 1, down)  # corrects the rounded square root
    down = tl.where((down + 1) * (down + 2) // 2 <= number, down + 1, down)
    across = number - down * (down + 1) // 2
    first_row, first_column = (down * ROWS).to(tl.int64), (across * ROWS).to(tl.int64)
    inner, between = tl.arange(0, ROWS), tl.arange(0, DEPTH)
    rows, columns = down * ROWS + inner, across * ROWS + inner

    # Only offsets within a tile have 32 bits: a matrix may have more elements than 32 bits can count.
    left += batch * left_batch + first_row * left_row
    right += batch * right_batch + first_column * right_column
    lefts = left + (inner[:, None] * left_row + between[None, :] * left_column)
    rights = right + (between[:, None] * right_row + inner[None, :] * right_column)
    total = tl.zeros((ROWS, ROWS), tl.float32)
    for start in range(0, depth, DEPTH):
        inside = between < depth - start
        a = tl.load(lefts, mask=(rows < n)[:, None] & inside[None, :], other=0.0)
        b = tl.load(rights, mask=inside[:, None] & (columns < n)[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        lefts += DEPTH * left_column
        rights += DEPTH * right_row
    total *= alpha

    within = inner[:, None] * out_row + inner[None, :] * out_column
    here = out + (batch * out_batch + first_row * out_row + first_column * out_column) + within
    opposite = out + (batch * out_batch + first_column * out_row + first_row * out_column) + within
    if down == across:
        total = tl.where(rows[:, None] >= columns[None, :], total, tl.trans(total))
        total += tl.where(rows[:, None] == columns[None, :], diagonal, 0.0)
    result = total.to(out.dtype.element_ty)
    if down != across:
        tl.store(opposite, tl.trans(result), mask=(columns < n)[:, None] & (rows < n)[None, :])
    tl.store(here, result, mask=(rows < n)[:, None] & (columns < n)[None, :])
