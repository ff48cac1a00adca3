"""The parts of a Muon step outside its matrix products, in as few passes over memory as the device allows.

On an accelerator each function is one operator, `torch.ops.muloco.*`. On CUDA with Triton it calls the kernels of
`muloco.optim.kernels`. Without Triton, on other accelerators and for float64 it calls PyTorch's own operators, which
take more passes. On the CPU PyTorch's operators are called directly.

By design, kernels and PyTorch's operators round in the same places, so that a float32 parameter and its momentum get
the same bits from the same input. Parameters of 16 bits are rounded once by the kernels and up to three times by the
operators. The kernels sum the norm of a matrix in another order, so it may differ in its last float32 digits.
"""

import importlib.util
import logging
import math
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SEEN = frozenset({"cpu"})
"""Types of devices whose values the host can read without waiting."""


def host_sees(tensor: Tensor) -> bool:
    """Whether the host can read the values of a tensor without waiting for a device."""
    return tensor.device.type in SEEN


def advance(
    gradients: list[Tensor], momenta: list[Tensor], momentum: float, *, nesterov: bool, parts: Tensor | None = None
) -> None:
    """Updates the momentum of every matrix in place, M <- momentum M + G, and writes the matrix to orthogonalize.

    Args:
        gradients, momenta: plain tensors of one shape, dtype and device; the momenta are overwritten.
        momentum: in [0, 1).
        nesterov: whether `parts` get the weighted mean of gradient and new momentum, with weights 1 and `momentum`,
            instead of the new momentum. This mean is G + momentum M up to a positive factor, and finite if both are.
        parts: `[matrices, *shape]` in any floating dtype, overwritten by the matrices to orthogonalize; None: they are
            not written.
    """
    step = _advance_in_passes if host_sees(momenta[0]) else torch.ops.muloco.advance
    step(gradients, momenta, parts, float(momentum), nesterov)


def descend(
    params: list[Tensor], directions: list[Tensor], lr: float | Tensor, weight_decay: float, *, cautious: bool
) -> None:
    """Updates every matrix in place: X <- X (1 - lr weight_decay) - D, or - lr D if `lr` is a tensor.

    Args:
        params: plain tensors of one shape, dtype and device, which are overwritten.
        directions: D, of the shape of the parameters, all of one dtype and on their device.
        lr: a float, or a tensor of one element on the device of the parameters.
        weight_decay: decoupled weight decay, which is multiplied by lr.
        cautious: see `decay_`.
    """
    step = _descend_in_passes if host_sees(params[0]) else torch.ops.muloco.descend
    rate = lr if isinstance(lr, Tensor) else None
    step(params, directions, rate, float(weight_decay if isinstance(lr, Tensor) else lr * weight_decay), cautious)


@torch.no_grad()
def decay_(param: Tensor, direction: Tensor, amount: float | Tensor, *, cautious: bool) -> None:
    """`param` <- `param` (1 - `amount`), in place.

    Args:
        param: any shape.
        direction: what is about to be subtracted from it, up to a positive factor; read only if cautious.
        amount: learning rate times weight decay.
        cautious: leave the elements alone that the step moves away from zero (arXiv 2510.12402): those whose sign is
            opposite to the direction's.
    """
    if not cautious:
        param.mul_(1 - amount)
        return
    agrees = param.sign().mul_(direction.sign()) >= 0  # of the signs: a product of small numbers would vanish
    param.sub_(param * agrees * amount)


def normalize_(x: Tensor) -> Tensor:
    """Divides every nonzero matrix of `x`, contiguous `[batch, rows, cols]`, by its Frobenius norm in place, whatever
    its scale. A matrix that is not finite becomes NaN. Returns `x`."""
    (_normalize_in_passes if host_sees(x) else torch.ops.muloco.normalize_)(x)
    return x


def near_one(x: Tensor, *, out: Tensor) -> Tensor:
    """Writes each matrix of `x`, `[batch, rows, cols]`, divided by a power of two to `out`, of its shape, and returns
    `out`. The division is exact and leaves the largest absolute value of each matrix in [1, 2)."""
    largest = torch.linalg.vector_norm(x, math.inf, dim=(-2, -1), keepdim=True)
    largest = largest.to(torch.promote_types(x.dtype, torch.float32))
    power = largest / (2 * largest.frexp().mantissa)  # the largest float's exponent would overflow without the 2
    return torch.div(x, torch.where(largest == 0, 1, power), out=out)


def norm_of(x: Tensor) -> Tensor:
    """Returns the norm of each matrix in float32 or float64: rounding to 16 bits would change it by up to 0.4 %."""
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


_advance = torch.library.custom_op("muloco::advance", _advance_in_passes, mutates_args=("momenta", "parts"))
_descend = torch.library.custom_op("muloco::descend", _descend_in_passes, mutates_args=("params",))
_normalize = torch.library.custom_op("muloco::normalize_", _normalize_in_passes, mutates_args=("x",))
for _operator in (_advance, _descend, _normalize):
    _operator.register_fake(lambda *arguments: None)


@_advance.register_kernel("cuda")
def _advance_cuda(
    gradients: Sequence[Tensor], momenta: Sequence[Tensor], parts: Tensor | None, momentum: float, nesterov: bool
) -> None:
    if (kernels := _kernels_that_write(momenta)) is None:
        return _advance_in_passes(gradients, momenta, parts, momentum, nesterov)
    with torch.cuda.device(momenta[0].device):
        kernels.advance([gradient.contiguous() for gradient in gradients], momenta, parts, momentum, nesterov)


@_descend.register_kernel("cuda")
def _descend_cuda(
    params: Sequence[Tensor], directions: Sequence[Tensor], rate: Tensor | None, decay: float, cautious: bool
) -> None:
    if (kernels := _kernels_that_write(params)) is None:
        return _descend_in_passes(params, directions, rate, decay, cautious)
    with torch.cuda.device(params[0].device):
        kernels.descend(params, [direction.contiguous() for direction in directions], rate, decay, cautious)


@_normalize.register_kernel("cuda")
def _normalize_cuda(x: Tensor) -> None:
    if (kernels := _kernels_that_write([x])) is None:
        return _normalize_in_passes(x)
    with torch.cuda.device(x.device):
        kernels.normalize_(x)


def _kernels_that_write(tensors: Sequence[Tensor]) -> ModuleType | None:
    """The kernels if they can write these tensors: contiguous ones, not in float64, as kernels compute in float32."""
    writable = all(tensor.is_contiguous() for tensor in tensors) and tensors[0].dtype.itemsize <= 4
    return _kernels() if writable else None


@cache
def _kernels() -> ModuleType | None:
    if importlib.util.find_spec("triton") is None:
        logger.info("Triton is not installed: a step of Muon takes more passes over memory than with Triton")
        return None
    return importlib.import_module("muloco.optim.kernels")
