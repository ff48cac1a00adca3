"""Newton-Schulz orthogonalization: matrix products alone push all singular values of a matrix towards one."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from muloco.optim.passes import host_sees, near_one, norm_of, normalize_
from muloco.optim.presets import Triple, coefficients
from muloco.optim.symmetric import symmetric_product

Step = tuple[Triple, float]  # and what its result is multiplied by


@torch.no_grad()
def orthogonalize(
    matrix: Tensor,
    preset: str = "muloco",
    steps: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    symmetric_products: str = "matmul",
) -> Tensor:
    """Replace the singular values s of a matrix U diag(s) V^T by p(s / |s|), where p composes the steps' odd quintics.

    p is near one except close to zero, so the result is near U V^T, the orthogonal matrix closest to the input. A
    finite matrix gives a finite result, whatever its scale, from subnormal to the largest numbers. (The paper's code
    divides by |s| + 1e-8 instead, so that a matrix takes a smaller step once its norm nears 1e-8.) Zeros stay zeros; a
    matrix that holds an infinity or NaN becomes NaN.

    Args:
        matrix: `[..., rows, cols]`, any floating dtype; leading dimensions are a batch. It is not modified.
        preset: a name in `PRESETS`.
        steps: number of steps; None for the preset's own.
        dtype: in which the products are computed. None: bfloat16 where the hardware multiplies it fast, else float32.
            In float16 they lose what is below 6e-8, as entries of the Gram matrix of a large matrix are.
        symmetric_products: how the Gram matrix and its square are computed, see
            `muloco.optim.symmetric.symmetric_product`.

    Returns:
        A new tensor of the shape and dtype of `matrix`. No gradient is recorded.

    Raises:
        ValueError: fewer than two dimensions, not a real floating dtype, unknown preset, steps < 1, or
            `symmetric_products` is `triton`, which cannot run on this device.

    Source: MuLoCo (arXiv 2505.23725), inner optimizer; Keller Jordan, "Muon: An optimizer for hidden layers in neural
    networks" (2024); "The Polar Express" (arXiv 2505.16932).
    """
    triples = coefficients(preset, steps)
    direction = orthogonal_direction(matrix, triples, dtype=dtype, symmetric_products=symmetric_products)
    return direction.to(matrix.dtype)


@torch.no_grad()
def orthogonal_direction(
    matrix: Tensor,
    triples: tuple[Triple, ...],
    scale: float = 1.0,
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    symmetric_products: str = "matmul",
) -> Tensor:
    """Returns `scale` times `orthogonalize(matrix)` in the dtype of the products, which saves an optimizer two passes.

    Args:
        matrix: see `orthogonalize`.
        triples: the coefficients of each step, see `coefficients`.
        scale: any finite number.
        dtype, symmetric_products: see `orthogonalize`.
        overwrite: whether `matrix` may be overwritten, which can save a copy.

    Returns:
        A tensor of the shape of `matrix` in `dtype`.

    Raises:
        ValueError: as for `orthogonalize`.
    """
    if matrix.ndim < 2:
        raise ValueError(f"a matrix needs at least 2 dimensions, this tensor has shape {tuple(matrix.shape)}")
    if dtype is None:
        dtype = _fast_dtype(matrix.device.type)
    for kind in (matrix.dtype, dtype):
        if not kind.is_floating_point:
            raise ValueError(f"only real floating dtypes can be orthogonalized, not {kind}")
    if matrix.numel() == 0:
        return matrix.to(dtype, copy=True)

    rows, cols = matrix.shape[-2:]
    scales = (1.0,) * (len(triples) - 1) + (scale,)
    steps = tuple(zip(triples, scales, strict=True))
    x = _normalize(matrix.reshape(-1, rows, cols), dtype, overwrite)
    return _iterate(x, steps, symmetric_products).reshape(matrix.shape)


def _iterate(x: Tensor, steps: tuple[Step, ...], by: str) -> Tensor:
    """`[batch, rows, cols]` -> the same shape, after all steps; overwrites `x`.

    The Gram matrix is taken on the smaller side: it has the same nonzero eigenvalues and costs fewer products. Where
    that side is much the smaller, two steps become one factor, but not in 16 bits: there the second step sees rounding
    errors of the Gram matrix multiplied by a^2, large enough to leave the range in which further steps are bounded.
    """
    small, large = sorted(x.shape[-2:])
    tall = x.shape[-2] > small
    pairs = 2 * large > 3 * small and x.dtype.itemsize > 2
    at_once = 2 if pairs else 1  # per pair, two products with X fewer and three small ones more
    spare = torch.empty_like(x)
    gram, *room = (x.new_empty(len(x), small, small) for _ in range(4 if at_once > 1 else 2))
    for start in range(0, len(steps), at_once):
        left, right = (x.mT, x) if tall else (x, x.mT)
        symmetric_product(left, right, out=gram, by=by)
        factor = _factor(gram, steps[start : start + at_once], room, by)
        left, right = (x, factor) if tall else (factor, x)
        torch.bmm(left, right, out=spare)
        x, spare = spare, x
    return x


def _factor(gram: Tensor, steps: tuple[Step, ...], room: list[Tensor], by: str) -> Tensor:
    """The F of X <- F X after one step or two, from X X^T `[batch, n, n]`, with which it commutes; overwrites all."""
    first, *more = room
    if len(steps) == 1:
        return _polynomial(gram, steps[0], by, out=first)
    half, second = more
    _polynomial(half.copy_(gram), steps[0], by, out=first)
    torch.bmm(first, gram, out=half)
    torch.bmm(half, first, out=gram)
    _polynomial(gram, steps[1], by, out=second)
    return torch.bmm(first, second, out=half)


def _polynomial(gram: Tensor, step: Step, by: str, *, out: Tensor) -> Tensor:
    """The scale times a I + b G + c G^2 of each G of `[batch, n, n]`, which it overwrites.

    Computed as c (G + b/2c I)^2 + (a - b^2/4c) I: only diagonals are added to, which costs no pass over the memory.
    """
    (a, b, c), scale = step
    gram.diagonal(dim1=-2, dim2=-1).add_(b / (2 * c))
    rest = scale * (a - b * b / (4 * c))
    return symmetric_product(gram, gram, alpha=scale * c, diagonal=rest, out=out, by=by)


def _normalize(x: Tensor, dtype: torch.dtype, overwrite: bool) -> Tensor:
    """Returns `x`, `[batch, rows, cols]`, in `dtype` with every nonzero matrix scaled to norm one, whatever its scale,
    as a new tensor or in place."""
    # The norm is taken after rounding, which spares a pass, unless rounding loses small numbers.
    kind = dtype if _reaches_as_low(dtype, x.dtype) else x.dtype
    free = overwrite and x.dtype == kind
    if host_sees(x):  # if squares neither overflow nor underflow, fewer operations give the same result
        rounded = x if free else x.to(kind, copy=True)
        norm = norm_of(rounded)
        if bool(((norm > 1e-9) & (norm < 1e9)).all()):
            for matrix, factor in zip(rounded, norm.reciprocal().flatten().tolist(), strict=True):
                matrix.mul_(factor)  # a Python number needs no copy in the dtype of the norms
            return rounded.to(dtype)
    if x.dtype != kind:  # rounding may give infinity
        x = near_one(x, out=x.new_empty(x.shape, dtype=kind))
    elif not (free and x.is_contiguous()):
        x = x.clone(memory_format=torch.contiguous_format)
    return normalize_(x).to(dtype)


def exchange_dtypes(matrix: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """The dtype in which `orthogonal_direction` may be given this matrix with the same result, as it rounds to it
    before anything else (only entries within 0.2 % of the largest float32 would become infinite, and subnormal ones
    less exact or zero); and the dtype of the result."""
    products = _fast_dtype(matrix.device.type)
    smaller = products.itemsize < matrix.dtype.itemsize and _reaches_as_low(products, matrix.dtype)
    return products if smaller else matrix.dtype, products


def _reaches_as_low(dtype: torch.dtype, other: torch.dtype) -> bool:
    return torch.finfo(dtype).tiny <= torch.finfo(other).tiny


@cache
def _fast_dtype(device_type: str) -> torch.dtype:
    if device_type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device_type == "cpu":
        features = _cpu_features()
        fast = features.get("avx512_bf16", False) or features.get("amx_bf16", False)
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


def _cpu_features() -> Mapping[str, bool]:
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    # torch below 2.11
    return {"avx512_bf16": torch.cpu._is_avx512_bf16_supported(), "amx_bf16": torch.cpu._is_amx_tile_supported()}
