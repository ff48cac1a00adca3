"""Newton-Schulz orthogonalization: push all singular values of a matrix towards one, with matrix products alone."""

from functools import cache

import torch
from torch import Tensor

from muloco.optim.lookup import lookup

__all__ = ["PRESETS", "coefficients", "exchange_dtypes", "orthogonal_direction", "orthogonalize"]

Triple = tuple[float, float, float]
Step = tuple[Triple, float]  # and what its result is multiplied by

PRESETS: dict[str, tuple[Triple, ...]] = {
    # Steep at first, then flat: they end within 0.04 of one. The per-step triples of MuLoCo's Muon (arXiv 2505.23725).
    "muloco": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    # One triple of the greatest slope at zero; singular values end between 0.68 and 1.21 (Keller Jordan's Muon).
    "quintic": ((3.4445, -4.7750, 2.0315),) * 5,
    # Each step the best for what the one before leaves: singular values above 1e-3 end at one to 1e-14. With steps=5,
    # at the price of the others, they end between 0.84 and 1.13. From the first listing of "The Polar Express" (arXiv
    # 2505.16932), with its safety factor 1.01 on all triples but the last.
    "polar_express": (
        *(
            (a / 1.01, b / 1.01**3, c / 1.01**5)
            for a, b, c in (
                (8.28721201814563, -23.595886519098837, 17.300387312530933),
                (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
                (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
                (3.3184196573706015, -2.488488024314874, 0.51004894012372),
                (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
                (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
                (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
            )
        ),
        (1.875, -1.25, 0.375),
    ),
}
"""Coefficients (a, b, c) of each step X <- a X + b (X X^T) X + c (X X^T)^2 X, by name."""


def coefficients(preset: str = "muloco", steps: int | None = None) -> tuple[Triple, ...]:
    """The triple of each step.

    Args:
        preset: a name in `PRESETS`.
        steps: how many; None for the preset's own number. Fewer take its first triples, more repeat its last one.

    Raises:
        ValueError: unknown preset, or steps is not a positive integer.
    """
    triples = lookup(PRESETS, preset, "orthogonalization preset")
    if steps is None:
        return triples
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer or None, not {steps!r}")
    return triples[:steps] + triples[-1:] * (steps - len(triples))


@torch.no_grad()
def orthogonalize(
    matrix: Tensor, preset: str = "muloco", steps: int | None = None, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Replace the singular values s of a matrix U diag(s) V^T by p(s / |s|), where p composes the steps' odd quintics.

    p is near one except close to zero, so the result is near U V^T, the orthogonal matrix closest to the input, and
    does not depend on the input's scale. Zeros stay zeros; a matrix that holds an infinity or NaN becomes NaN.

    Args:
        matrix: `[..., rows, cols]`, any floating dtype; leading dimensions are a batch. It is not modified.
        preset: a name in `PRESETS`.
        steps: number of steps; None for the preset's own.
        dtype: in which the products are computed. None: bfloat16 where the hardware multiplies it fast, else float32.

    Returns:
        A new tensor of the shape and dtype of `matrix`. No gradient is recorded.

    Raises:
        ValueError: fewer than two dimensions, not a real floating dtype, unknown preset, or steps < 1.

    Source: MuLoCo (arXiv 2505.23725), inner optimizer; Keller Jordan, "Muon: An optimizer for hidden layers in neural
    networks" (2024); "The Polar Express" (arXiv 2505.16932).
    """
    return orthogonal_direction(matrix, coefficients(preset, steps), dtype=dtype).to(matrix.dtype)


@torch.no_grad()
def orthogonal_direction(
    matrix: Tensor, triples: tuple[Triple, ...], scale: float = 1.0, *, dtype: torch.dtype | None = None
) -> Tensor:
    """`scale` times `orthogonalize(matrix)`, left in the dtype of the products, which saves an optimizer two passes.

    Args:
        matrix: see `orthogonalize`, and for the errors.
        triples: of each step, see `coefficients`.
        scale: any finite number.
        dtype: see `orthogonalize`.

    Returns:
        A new tensor of the shape of `matrix` in `dtype`.
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
    return _iterate(_normalize(matrix.reshape(-1, rows, cols), dtype), steps).reshape(matrix.shape)


def _iterate(x: Tensor, steps: tuple[Step, ...]) -> Tensor:
    """`[batch, rows, cols]` -> the same after all steps; overwrites `x`.

    The Gram matrix is taken on the smaller side: it has the same nonzero eigenvalues and costs fewer products. Where
    that side is much the smaller, two steps become one factor. Not more: in bfloat16 the eigenvalues of an updated Gram
    matrix near zero are noise, also below zero, which a third step would blow up.
    """
    small, large = sorted(x.shape[-2:])
    tall = x.shape[-2] > small
    at_once = 2 if 2 * large > 3 * small else 1  # per pair, two products with X fewer and three small ones more
    spare = torch.empty_like(x)
    gram, *room = (x.new_empty(len(x), small, small) for _ in range(4 if at_once > 1 else 2))
    for start in range(0, len(steps), at_once):
        torch.bmm(*((x.mT, x) if tall else (x, x.mT)), out=gram)
        factor = _factor(gram, steps[start : start + at_once], room)
        torch.bmm(*((x, factor) if tall else (factor, x)), out=spare)
        x, spare = spare, x
    return x


def _factor(gram: Tensor, steps: tuple[Step, ...], room: list[Tensor]) -> Tensor:
    """The F of X <- F X after one step or two, from X X^T `[batch, n, n]`, with which it commutes; overwrites all."""
    first, *more = room
    if len(steps) == 1:
        return _polynomial(gram, steps[0], out=first)
    half, second = more
    _polynomial(half.copy_(gram), steps[0], out=first)
    torch.bmm(first, gram, out=half)
    torch.bmm(half, first, out=gram)
    _polynomial(gram, steps[1], out=second)
    return torch.bmm(first, second, out=half)


def _polynomial(gram: Tensor, step: Step, *, out: Tensor) -> Tensor:
    """The scale times a I + b G + c G^2 of each G of `[batch, n, n]`, which it overwrites.

    Computed as c (G + b/2c I)^2 + (a - b^2/4c) I: only diagonals are added to, which costs no pass over the memory.
    """
    (a, b, c), scale = step
    gram.diagonal(dim1=-2, dim2=-1).add_(b / (2 * c))
    torch.baddbmm(out, gram, gram, beta=0, alpha=scale * c, out=out)
    out.diagonal(dim1=-2, dim2=-1).add_(scale * (a - b * b / (4 * c)))
    return out


def _normalize(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`[batch, rows, cols]` -> a new tensor in `dtype`, each nonzero matrix of Frobenius norm one."""
    # The norm is taken after rounding, which spares a pass, unless rounding loses small numbers.
    kind = dtype if _reaches_as_low(dtype, x.dtype) else x.dtype
    scaled = x.to(kind, copy=True)
    norm = torch.linalg.vector_norm(scaled, dim=(-2, -1), keepdim=True)
    if not (_can_see(norm) and bool(((norm > 1e-9) & (norm < 1e9)).all())):
        # Squares may overflow or vanish, so a power of two near the largest entry is divided out first, which is exact.
        x = x.to(torch.promote_types(torch.promote_types(x.dtype, torch.float32), kind))
        largest = torch.maximum(x.amax((-2, -1), keepdim=True), -x.amin((-2, -1), keepdim=True))
        scaled = (x / torch.where(largest == 0, 1, largest / largest.frexp().mantissa)).to(kind)
        norm = torch.linalg.vector_norm(scaled, dim=(-2, -1), keepdim=True)
    return scaled.mul_(torch.where(norm == 0, 1, norm.reciprocal())).to(dtype)


def exchange_dtypes(matrix: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """In which dtype `orthogonal_direction` may be given this matrix with the same result, as it rounds to that before
    anything else, but for numbers near the end of its range; and the dtype of the result."""
    products = _fast_dtype(matrix.device.type)
    smaller = products.itemsize < matrix.dtype.itemsize and _reaches_as_low(products, matrix.dtype)
    return products if smaller else matrix.dtype, products


def _reaches_as_low(dtype: torch.dtype, other: torch.dtype) -> bool:
    return torch.finfo(dtype).tiny <= torch.finfo(other).tiny


def _can_see(tensor: Tensor) -> bool:
    """Whether values can be read without waiting for a device."""
    return tensor.device.type == "cpu"


@cache
def _fast_dtype(device_type: str) -> torch.dtype:
    if device_type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device_type == "cpu":
        features = torch.cpu.get_capabilities()
        fast = features.get("avx512_bf16", False) or features.get("amx_bf16", False)
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32
