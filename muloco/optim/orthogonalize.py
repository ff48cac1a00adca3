"""Newton-Schulz orthogonalization: push all singular values of a matrix towards one, with matrix products alone."""

from functools import cache

import torch
from torch import Tensor

from muloco.optim.lookup import lookup

__all__ = ["PRESETS", "coefficients", "orthogonalize"]

Triple = tuple[float, float, float]

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
    triples = coefficients(preset, steps)
    if matrix.ndim < 2:
        raise ValueError(f"a matrix needs at least 2 dimensions, this tensor has shape {tuple(matrix.shape)}")
    if dtype is None:
        dtype = _fast_dtype(matrix.device.type)
    for kind in (matrix.dtype, dtype):
        if not kind.is_floating_point:
            raise ValueError(f"only real floating dtypes can be orthogonalized, not {kind}")
    if matrix.numel() == 0:
        return matrix.clone()

    rows, cols = matrix.shape[-2:]
    x = _iterate(_normalize(matrix.reshape(-1, rows, cols), dtype), triples)
    return x.to(matrix.dtype).reshape(matrix.shape)


def _iterate(x: Tensor, triples: tuple[Triple, ...]) -> Tensor:
    """`[batch, rows, cols]` -> the same after all steps; overwrites `x`.

    The Gram matrix is taken on the smaller side: it has the same nonzero eigenvalues and costs fewer products.
    """
    rows, cols = x.shape[-2:]
    tall = rows > cols
    spare = torch.empty_like(x)
    gram = x.new_empty(len(x), min(rows, cols), min(rows, cols))
    factor = torch.empty_like(gram)
    for a, b, c in triples:
        left, right = (x.mT, x) if tall else (x, x.mT)
        torch.bmm(left, right, out=gram)
        torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=factor)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)  # a I inside the factor spares adding a X to every product
        left, right = (x, factor) if tall else (factor, x)
        torch.bmm(left, right, out=spare)
        x, spare = spare, x
    return x


def _normalize(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`[batch, rows, cols]` -> the same in `dtype`, each nonzero matrix of Frobenius norm one; at least float32 inside.

    The largest entry is divided out first, so that squares neither overflow nor vanish.
    """
    x = x.to(torch.promote_types(torch.promote_types(x.dtype, torch.float32), dtype))
    largest = torch.maximum(x.amax((-2, -1), keepdim=True), -x.amin((-2, -1), keepdim=True))
    x = x / torch.where(largest == 0, 1, largest)
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    return x.div_(norm.clamp(min=1)).to(dtype)  # an entry is one now, so only the norm of zeros is below one


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
