"""Fused projections: a parameter whose rows (outputs) are those of several matrices. Reading it imports no torch.

The rows follow a pattern, `split`, of so many rows for each matrix, which repeats to the end of the rows: the parts at
the same place of every repetition form one matrix. With 4 heads of 64 rows each for q, k and v,

    (256, 256, 256)  is a projection with all rows of q, then those of k, then those of v;
    (64, 64, 64)     has 64 rows of q, of k and of v for the first head, then for the second one, and so on;
    (1, 1)           has rows of two matrices in turn, as interleaved gate and up projections.

With `per_head` every so many rows of a matrix, those of an attention head, are matrices of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from muloco.optim.layouts import matrix_shape, stack_dimensions

if TYPE_CHECKING:
    from torch import Tensor

Split = tuple[int, ...] | None
PerHead = int | tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class Part:
    """Matrices of one shape in a fused projection."""

    start: int
    """First row in each repetition."""
    size: int
    """Rows in each repetition."""
    period: int
    """Rows of a repetition."""
    repeats: int
    heads: int
    """How many matrices it consists of."""

    @property
    def rows(self) -> int:
        """Rows of each of its matrices."""
        return self.repeats * self.size // self.heads


@cache
def parts(outputs: int, split: Split, per_head: PerHead) -> tuple[Part, ...]:
    """Returns the parts of a parameter with so many rows (outputs).

    Raises:
        ValueError: the rows are not a multiple of the pattern or of those of a head; the message continues after the
            name of the parameter.
    """
    sizes = split or (outputs,)
    period = sum(sizes)
    if period and outputs % period:
        raise ValueError(f"has {outputs} outputs, which are not a multiple of the {period} of split {list(sizes)}")
    repeats = outputs // period if period else 1
    of_heads = per_head if isinstance(per_head, Sequence) else (per_head,) * len(sizes)
    if len(of_heads) != len(sizes):
        raise ValueError(f"has {len(sizes)} parts, but per_head {list(of_heads)} has {len(of_heads)} numbers")
    found, start = [], 0
    for size, rows in zip(sizes, of_heads, strict=True):
        if rows and repeats * size % rows:
            raise ValueError(f"has a part of {repeats * size} outputs, which are not a multiple of per_head {rows}")
        heads = repeats * size // rows if rows else 1
        found.append(Part(start=start, size=size, period=period, repeats=repeats, heads=heads))
        start += size
    return tuple(found)


def held_matrices(shape: Sequence[int], layout: str | None, split: Split, per_head: PerHead) -> str:
    """Describes the matrices [out, in] that a parameter consists of, such as `8 of [64, 32], 16 of [32, 32]`."""
    outputs, inputs = matrix_shape(shape, layout)
    stack = math.prod(shape[: stack_dimensions(len(shape), layout)])
    numbers: dict[int, int] = {}
    for part in parts(outputs, split, per_head):
        numbers[part.rows] = numbers.get(part.rows, 0) + stack * part.heads
    described = {f"[{rows}, {inputs}]": number for rows, number in numbers.items()}
    return ", ".join(f"{number} of {matrix}" if number > 1 else matrix for matrix, number in described.items())


def take(matrices: "Tensor", part: Part) -> "Tensor":
    """`[..., rows, cols]` -> a contiguous copy of the matrices of a part, `[..., heads, rows, cols]`."""
    import torch

    copied = _view(matrices, part).clone(memory_format=torch.contiguous_format)
    return copied.flatten(-3, -2).unflatten(-2, (part.heads, part.rows))


def put(matrices: "Tensor", part: Part, values: "Tensor") -> None:
    """Writes the matrices of a part, `[..., heads, rows, cols]`, to their places in `[..., rows, cols]`."""
    _view(matrices, part).copy_(values.flatten(-3, -2).unflatten(-2, (part.repeats, part.size)))


def _view(matrices: "Tensor", part: Part) -> "Tensor":
    """`[..., rows, cols]` -> `[..., repeats, size, cols]`, which shares its memory."""
    return matrices.unflatten(-2, (part.repeats, part.period)).narrow(-2, part.start, part.size)
