"""Triton kernels for the parts of a Muon step outside its matrix products, see `muloco.optim.passes`. One launch takes
up to 64 matrices and reads and writes every element once; normalization takes two launches and reads it twice. Needs
Triton.

The kernels compute in float32. A product and a sum are contracted only in the two `fma`, as in PyTorch's operators.
"""

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST = 64
"""Largest number of matrices in one launch: their addresses are arguments, which may take 4 KiB together."""
BLOCK = 2048
"""Number of elements that a program processes."""
PIECE = 8192
"""Number of elements whose norm a program computes; it sums their squares in registers."""
PIECES = 8
"""Number of pieces of `PIECE` elements that a program scales."""
ROOM = 1024
"""Largest number of norms of pieces that a program loads together."""
EXACT = {"enable_fp_fusion": False}


def advance(
    gradients: Sequence[Tensor], momenta: Sequence[Tensor], parts: Tensor | None, momentum: float, nesterov: bool
) -> None:
    """See `muloco.optim.passes.advance`. All tensors are contiguous."""
    size, weight = momenta[0].numel(), 1 / (1 + momentum)
    for some, grid, constants in _launches(momenta):
        gradient, buffer = _padded(gradients[some]), _padded(momenta[some])
        part = None if parts is None else parts[some]
        advance_kernel[grid](gradient, buffer, part, size, momentum, weight, 1 - weight, NESTEROV=nesterov, **constants)


def descend(
    params: Sequence[Tensor], directions: Sequence[Tensor], rate: Tensor | None, decay: float, cautious: bool
) -> None:
    """See `muloco.optim.passes.descend`. All tensors are contiguous."""
    size = params[0].numel()
    for some, grid, constants in _launches(params):
        param, direction = _padded(params[some]), _padded(directions[some])
        descend_kernel[grid](param, direction, rate, size, decay, 1 - decay, CAUTIOUS=cautious, **constants)


def normalize_(x: Tensor) -> None:
    """See `muloco.optim.passes.normalize_`. Takes two launches, the first of which only reads `x`."""
    size = x[0].numel()
    pieces = triton.cdiv(size, PIECE)
    room = min(ROOM, triton.next_power_of_2(pieces))
    norms = torch.empty(2, len(x), pieces, dtype=torch.float32, device=x.device)
    # Only the first dimension of a grid may exceed 65535, and there may be many small matrices.
    norm_kernel[(len(x) * pieces,)](x, *norms, size, pieces, PIECE=PIECE, num_warps=8, **EXACT)
    scale_kernel[(len(x) * triton.cdiv(pieces, PIECES),)](
        x,
        *norms,
        size,
        pieces,
        PIECE=PIECE,
        PIECES=PIECES,
        ROOM=room,
        LOOKS=triton.cdiv(pieces, room),
        num_warps=8,
        **EXACT,
    )


def _launches(matrices: Sequence[Tensor]) -> Iterator[tuple[slice, tuple[int, int], dict[str, int | bool]]]:
    """For each launch the matrices that it takes, its grid, and its constants."""
    for start in range(0, len(matrices), MOST):
        some = slice(start, start + MOST)
        count = len(matrices[some])
        grid = triton.cdiv(matrices[0].numel(), BLOCK), count
        yield some, grid, {"COUNT": triton.next_power_of_2(count), "BLOCK": BLOCK, **EXACT}


def _padded(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Repeats the first tensor up to the next power of two in number, so that few kernels are compiled."""
    return (*tensors, *tensors[:1] * (triton.next_power_of_2(len(tensors)) - len(tensors)))


@triton.jit
def advance_kernel(
    gradients,
    momenta,
    parts,
    size,
    momentum,
    weight,
    other_weight,
    COUNT: tl.constexpr,
    NESTEROV: tl.constexpr,
    BLOCK: tl.constexpr,
):
    which = tl.program_id(1)
    gradient_at, momentum_at = gradients[0], momenta[0]
    for i in tl.static_range(1, COUNT):
        gradient_at = tl.where(which == i, gradients[i], gradient_at)
        momentum_at = tl.where(which == i, momenta[i], momentum_at)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    kind = momentum_at.dtype.element_ty
    gradient = tl.load(gradient_at + at, there).to(tl.float32)
    new = tl.fma(tl.load(momentum_at + at, there).to(tl.float32), momentum, gradient).to(kind)
    tl.store(momentum_at + at, new, there)
    if parts is not None:
        part = new.to(tl.float32)
        if NESTEROV:
            part = tl.fma(part, other_weight, gradient * weight)
        tl.store(parts + which.to(tl.int64) * size + at, part.to(parts.dtype.element_ty), there)


@triton.jit
def descend_kernel(
    parameters,
    directions,
    rate,
    size,
    decay,
    kept,
    COUNT: tl.constexpr,
    CAUTIOUS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    which = tl.program_id(1)
    param_at, direction_at = parameters[0], directions[0]
    for i in tl.static_range(1, COUNT):
        param_at = tl.where(which == i, parameters[i], param_at)
        direction_at = tl.where(which == i, directions[i], direction_at)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    param = tl.load(param_at + at, there).to(tl.float32)
    step = tl.load(direction_at + at, there).to(tl.float32)
    lost, left = decay, kept
    if rate is not None:
        lr = tl.load(rate).to(tl.float32)
        step = step * lr
        lost = lr * decay
        left = 1.0 - lost
    if CAUTIOUS:
        away = ((param > 0) & (step < 0)) | ((param < 0) & (step > 0))
        param = param - tl.where(away, 0.0, param * lost)
    else:
        param = param * left
    tl.store(param_at + at, (param - step).to(param_at.dtype.element_ty), there)


@triton.jit
def norm_kernel(x, largest_at, sums_at, size, pieces, PIECE: tl.constexpr):
    """Computes for each piece its largest absolute value, and the sum of squares over its power of two."""
    program = tl.program_id(0).to(tl.int64)
    which = program // pieces
    at = (program % pieces) * PIECE + tl.arange(0, PIECE)
    values = tl.load(x + which * size + at, at < size, 0.0).to(tl.float32)
    largest = tl.max(tl.abs(values))
    scaled = values * (((127 - exponent(largest)) << 23).to(tl.float32, bitcast=True))
    tl.store(largest_at + program, largest)
    tl.store(sums_at + program, tl.sum(scaled * scaled))


@triton.jit
def scale_kernel(
    x,
    largest_at,
    sums_at,
    size,
    pieces,
    PIECE: tl.constexpr,
    PIECES: tl.constexpr,
    ROOM: tl.constexpr,
    LOOKS: tl.constexpr,
):
    programs = tl.cdiv(pieces, PIECES)
    which = tl.program_id(0).to(tl.int64) // programs
    largest = tl.zeros([ROOM], tl.float32)
    for look in range(LOOKS):
        place = look * ROOM + tl.arange(0, ROOM)
        largest = tl.maximum(largest, tl.load(largest_at + which * pieces + place, place < pieces, 0.0))
    power = ((127 - exponent(tl.max(largest))) << 23).to(tl.float32, bitcast=True)
    sums = tl.zeros([ROOM], tl.float32)
    for look in range(LOOKS):
        place = look * ROOM + tl.arange(0, ROOM)
        here = tl.load(largest_at + which * pieces + place, place < pieces, 0.0)
        factor = power * ((127 + exponent(here)) << 23).to(tl.float32, bitcast=True)
        sums += tl.load(sums_at + which * pieces + place, place < pieces, 0.0) * factor * factor
    norm = tl.sqrt_rn(tl.sum(sums))
    inverse = tl.div_rn(1.0, tl.where(norm == 0.0, 1.0, norm)) + (norm - norm)  # NaN where the norm is not finite
    for piece in range(PIECES):
        first = (tl.program_id(0).to(tl.int64) % programs) * PIECES
        at = (first + piece) * PIECE + tl.arange(0, PIECE)
        values = tl.load(x + which * size + at, at < size, 0.0).to(tl.float32)
        tl.store(x + which * size + at, (values * power * inverse).to(x.dtype.element_ty), at < size)


@triton.jit
def exponent(number):
    """Returns the exponent of the largest power of two that is at most `number`, a float32 of at least 0. It is clamped
    so that this power and its inverse are normal numbers."""
    power = (number.to(tl.int32, bitcast=True) >> 23) - 127
    return tl.minimum(tl.maximum(power, -126), 126)
