"""Run with TRITON_INTERPRET=1: prints one line of JSON for each case of the kernel, computed on the CPU."""

import itertools
import json
import math
import sys

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

from muloco.optim import orthogonalize
from muloco.optim.symmetric import symmetric_product
from muloco.optim.symmetric_kernel import Tile, launch, tiles

SHAPES = [(1, 1, 1), (2, 5, 3), (3, 65, 31), (1, 64, 64), (1, 130, 70)]
LARGE = (2, 259, 40)  # for the larger tiles
FACTORS = ("rows", "columns", "square", "commuting")
LAYOUTS = ("plain", "strided")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def teach_bfloat16() -> None:
    """The interpreter of Triton 3.9 multiplies the bits of bfloat16 as integers; widening them is exact."""
    original = interpreter.InterpreterBuilder.create_dot

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self, a, b, *rest):
        return original(self, widened(a), widened(b), *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot


def within(tensor: Tensor, layout: str, filling: float) -> tuple[Tensor, Tensor]:
    """The tensor as part of a larger one, and that one, filled elsewhere."""
    batch, rows, columns = tensor.shape
    if layout == "plain":
        around = tensor.new_full((batch + 2, rows, columns), filling)
        view = around[1:-1]
    else:
        around = tensor.new_full((batch + 2, columns + 3, 2 * rows + 5), filling)
        view = around[1:-1, 1 : columns + 1, 2 : 2 * rows + 2 : 2].mT
    view.copy_(tensor)
    return view, around


def factors(kind: str, shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    batch, n, k = shape
    x = torch.randn(batch, n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(n + k))
    if kind in ("rows", "columns"):
        x = (x if kind == "rows" else x.mT.contiguous().mT).to(dtype)
        return x, x.mT
    left = (torch.bmm(x, x.mT) / k).to(dtype)
    return (left, left) if kind == "square" else (left, -left)


def case(
    tile: Tile, dtype: str, shape: tuple[int, int, int], kind: str, layout: str, alpha: float, diagonal: float
) -> dict:
    """Returns the largest error as a share of the bound on rounding errors, and whether the other conditions hold."""
    left, right = factors(kind, shape, DTYPES[dtype])
    exact = alpha * torch.bmm(left.double(), right.double()) + diagonal * torch.eye(shape[1])
    size = torch.bmm(left.double().abs(), right.double().abs())
    left, right = within(left, layout, math.nan)[0], within(right, layout, math.nan)[0]
    out, around = within(torch.full((shape[0], shape[1], shape[1]), math.nan, dtype=left.dtype), layout, 7.0)
    launch(left, right, out, alpha=alpha, diagonal=diagonal, tile=tile, tensor_float_32=False)
    summing = 2**-24 * (shape[2] + 4) * (abs(alpha) * size + abs(diagonal))
    rounding = torch.finfo(left.dtype).eps / 2 * exact.abs() + summing
    error, symmetric = ((out.double() - exact).abs() / rounding).max().item(), torch.equal(out, out.mT)
    out.fill_(7)
    return {
        "case": [tile.rows, tile.warps, dtype, shape, kind, layout],
        "error": error,
        "symmetric": symmetric,
        "untouched": bool((around == 7).all()),
    }


def whole(dtype: str, shape: tuple[int, int, int]) -> dict:
    """Returns the relative difference between orthogonalizations with the kernel and with matmul."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mine, exact = (
        orthogonalize(x, dtype=kind, symmetric_products=by)
        for kind, by in ((DTYPES[dtype], "triton"), (torch.float64, "matmul"))
    )
    return {"case": ["orthogonalize", dtype, shape], "error": ((mine - exact).norm() / exact.norm()).item()}


def show(result: dict) -> None:
    sys.stdout.write(json.dumps(result) + "\n")


def main() -> None:
    torch.set_num_threads(1)
    teach_bfloat16()
    scales = itertools.cycle([(1.0, 0.0), (0.5, -0.25), (-2.75, 3.5)])
    for dtype, kind, layout in itertools.product(DTYPES, FACTORS, LAYOUTS):
        for shape in SHAPES:
            show(case(tiles(DTYPES[dtype])[-1], dtype, shape, kind, layout, *next(scales)))
    for dtype in DTYPES:
        for tile in tiles(DTYPES[dtype])[:-1]:
            show(case(tile, dtype, LARGE, "rows", "strided", *next(scales)))
    for dtype, shape in itertools.product(("float32", "bfloat16"), [(2, 40, 72), (1, 72, 40), (1, 70, 70)]):
        show(whole(dtype, shape))
    double = torch.randn(2, 9, 4, dtype=torch.float64)
    out = symmetric_product(double, double.mT, out=torch.empty(2, 9, 9, dtype=torch.float64), by="triton")
    show({"case": ["float64"], "equal": torch.equal(out, torch.bmm(double, double.mT))})


if __name__ == "__main__":
    main()
