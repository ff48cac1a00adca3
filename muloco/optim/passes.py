"""What a step of Muon does beside its products, in as few passes over the memory as the device allows.

On a device whose values the host does not read, each function is one operator, `torch.ops.muloco.*`. On CUDA with
Triton these are the kernels of `muloco.optim.kernels`. Without Triton, on other devices and for float64, PyTorch's own
operators do the same in more passes. The CPU calls the latter directly.

Kernels and PyTorch's operators give a float32 parameter and its momentum the same bits from the same input, as products
are rounded in the same places. Parameters of 16 bits are rounded once by the kernels and up to three times by the
operators. The norm of a matrix is summed in another order, so it may differ in the last places of float32.
"""

import importlib.util
import logging
import math
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from muloco.optim.decay import decay_

__all__ = ["advance", "descend", "host_sees", "near_one", "norm_of", "normalize_"]

logger = logging.getLogger(__name__)


SEEN = frozenset({"cpu"})
"""Types of devices whose values the host reads without waiting."""


def host_sees(tensor: Tensor) -> bool:
    """Whether the host reads its values without waiting for a device."""
    return tensor.device.type in SEEN


def advance(
    gradients: list[Tensor], momenta: list[Tensor], momentum: float, *, nesterov: bool, parts: Tensor | None = None
) -> None:
    """M <- momentum M + G of every matrix, in place, and what of it is to be orthogonalized.

    Args:
        gradients, momenta: plain tensors of one shape, dtype and device; the momenta are overwritten.
        momentum: in [0, 1).
        nesterov: `parts` get the mean of gradient and new momentum with weights 1 and `momentum`, which is the matrix
            that looks one step ahead up to a positive factor, and is finite where both are; else the new momentum.
        parts: `[matrices, *shape]` in any floating dtype, which is overwritten; None if it is not wanted.
    """
    step = _advance_in_passes if host_sees(momenta[0]) else torch.ops.muloco.advance
    step(gradients, momenta, parts, float(momentum), nesterov)


def descend(
    params: list[Tensor], directions: list[Tensor], lr: float | Tensor, weight_decay: float, *, cautious: bool
) -> None:
    """X <- X (1 - lr weight_decay) - D of every matrix, in place; of a learning rate that is a tensor, - lr D.

    Args:
        params: plain tensors of one shape, dtype and device, which are overwritten.
        directions: of that shape, of one dtype.
        lr: a float, or a tensor of one element on the device of the parameters.
        weight_decay: times lr.
        cautious: see `muloco.optim.decay`.
    """
    step = _descend_in_passes if host_sees(params[0]) else torch.ops.muloco.descend
    rate = lr if isinstance(lr, Tensor) else None
    step(params, directions, rate, float(weight_decay if isinstance(lr, Tensor) else lr * weight_decay), cautious)


def normalize_(x: Tensor) -> Tensor:
    """Divides every nonzero matrix of `[batch, rows, cols]`, contiguous, by its norm, in place, whatever its scale. A
    matrix that is not finite becomes NaN. Returns `x`."""
    (_normalize_in_passes if host_sees(x) else torch.ops.muloco.normalize_)(x)
    return x


def near_one(x: Tensor, *, out: Tensor) -> Tensor:
    """Each matrix of `[batch, rows, cols]` divided, exactly, by the power of two that leaves its largest entry in
    [1, 2)."""
    largest = torch.linalg.vector_norm(x, math.inf, dim=(-2, -1), keepdim=True)
    largest = largest.to(torch.promote_types(x.dtype, torch.float32))
    power = largest / (2 * largest.frexp().mantissa)  # the largest float's exponent would overflow without the 2
    return torch.div(x, torch.where(largest == 0, 1, power), out=out)


def norm_of(x: Tensor) -> Tensor:
    """The norm of each matrix, in float32 at least: rounded to 16 bits it would be off by as much as 0.4 %."""
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))


def _advance_in_passes(
    gradients: Sequence[Tensor], momenta: Sequence[Tensor], parts: Tensor | None, momentum: float, nesterov: bool
) -> None:
    weight = 1 / (1 + momentum)
    for place, (gradient, buffer) in enumerate(zip(gradients, momenta, strict=True)):
        torch.add(gradient, buffer, alpha=momentum, out=buffer)
        if parts is None:
            continue
        if nesterov:
            parts[place].copy_(gradient.mul(weight).add_(buffer, alpha=1 - weight))
        else:
            parts[place].copy_(buffer)


def _descend_in_passes(
    params: Sequence[Tensor], directions: Sequence[Tensor], rate: Tensor | None, decay: float, cautious: bool
) -> None:
    amount = decay if rate is None else rate * decay
    for param, direction in zip(params, directions, strict=True):
        step = direction if rate is None else direction.to(param.dtype) * rate
        if decay != 0:
            decay_(param, step, amount, cautious=cautious)
        param.sub_(step)


def _normalize_in_passes(x: Tensor) -> None:
    near_one(x, out=x)
    norm = norm_of(x)
    x.mul_(torch.where(norm == 0, 1, norm.reciprocal()))


@torch.library.custom_op("muloco::advance", mutates_args=("momenta", "parts"))
def _advance(
    gradients: Sequence[Tensor], momenta: Sequence[Tensor], parts: Tensor | None, momentum: float, nesterov: bool
) -> None:
    _advance_in_passes(gradients, momenta, parts, momentum, nesterov)


@torch.library.custom_op("muloco::descend", mutates_args=("params",))
def _descend(
    params: Sequence[Tensor], directions: Sequence[Tensor], rate: Tensor | None, decay: float, cautious: bool
) -> None:
    _descend_in_passes(params, directions, rate, decay, cautious)


@torch.library.custom_op("muloco::normalize_", mutates_args=("x",))
def _normalize(x: Tensor) -> None:
    _normalize_in_passes(x)


@_advance.register_kernel("cuda")
def _advance_cuda(
    gradients: Sequence[Tensor], momenta: Sequence[Tensor], parts: Tensor | None, momentum: float, nesterov: bool
) -> None:
    kernels = _kernels()
    if kernels is None or not _fusable(momenta):
        _advance_in_passes(gradients, momenta, parts, momentum, nesterov)
        return
    with torch.cuda.device(momenta[0].device):
        kernels.advance([gradient.contiguous() for gradient in gradients], momenta, parts, momentum, nesterov)


@_descend.register_kernel("cuda")
def _descend_cuda(
    params: Sequence[Tensor], directions: Sequence[Tensor], rate: Tensor | None, decay: float, cautious: bool
) -> None:
    kernels = _kernels()
    if kernels is None or not _fusable(params):
        _descend_in_passes(params, directions, rate, decay, cautious)
        return
    with torch.cuda.device(params[0].device):
        kernels.descend(params, [direction.contiguous() for direction in directions], rate, decay, cautious)


@_normalize.register_kernel("cuda")
def _normalize_cuda(x: Tensor) -> None:
    kernels = _kernels()
    if kernels is None or not _fusable([x]):
        _normalize_in_passes(x)
        return
    with torch.cuda.device(x.device):
        kernels.normalize_(x)


for _operator in (_advance, _descend, _normalize):
    _operator.register_fake(lambda *arguments: None)


def _fusable(written: Sequence[Tensor]) -> bool:
    """Kernels go through the memory of what they write as it lies, and compute in float32."""
    return all(one.is_contiguous() for one in written) and written[0].dtype.itemsize <= 4


@cache
def _kernels() -> ModuleType | None:
    if importlib.util.find_spec("triton") is None:
        logger.info("Triton is not installed: a step of Muon takes more passes over the memory than it needs")
        return None
    return importlib.import_module("muloco.optim.kernels")
