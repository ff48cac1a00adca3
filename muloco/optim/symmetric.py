"""Symmetric matrix products, of which a GPU may compute one triangle and mirror it."""

import importlib
import importlib.util
import logging
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

WAYS = ("auto", "triton", "matmul")
"""How symmetric products may be computed: see `symmetric_product`."""


@torch.no_grad()
def symmetric_product(
    left: Tensor, right: Tensor, *, alpha: float = 1.0, diagonal: float = 0.0, out: Tensor, by: str = "matmul"
) -> Tensor:
    """Computes alpha (left @ right) + diagonal I, where left @ right is symmetric: X X^T, or the square of a symmetric
    matrix.

    `matmul` computes all elements with torch.baddbmm, on any device. `triton` computes the triangle below the diagonal
    with half of the FLOPs, sums in float32 and writes each element twice, so that the result is exactly symmetric. It
    needs a CUDA device and the package triton. `auto` uses the faster of the two on a GPU, and `matmul` elsewhere.
    Their results differ by rounding.

    `auto` times both when a case (device, dtype, shapes, strides) first occurs in a process. Two processes or two runs
    may therefore choose differently, and their results then differ in the last bits. For inner steps of different
    workers this does not matter. Where results have to be equal to the last bit, use `matmul` or `triton`: in the outer
    step of every worker, for a matrix that several ranks compute, and for a run that is to be repeated. Nothing is
    timed while a CUDA graph is captured: a new case is then computed by `matmul`. With
    `torch.use_deterministic_algorithms`, `auto` is `matmul`.

    Args:
        left: `[batch, n, k]`, of any strides.
        right: `[batch, k, n]`, of any strides, of the dtype and device of `left`.
        alpha: factor on the product.
        diagonal: added to each element of the diagonal.
        out: `[batch, n, n]`, of the same dtype and device and any strides; it overlaps neither with itself nor with the
            factors.
        by: one of `WAYS`. float64 is always computed by `matmul`.

    Returns:
        `out`.

    Raises:
        ValueError: `by` is `triton`, and it cannot run on this device or is not installed.

    Source: one triangle by Triton is an idea of "Dion" (arXiv 2504.05295) in its implementation of Newton-Schulz.
    """
    tile = None
    if by == "triton":
        refuse_triton(left.device)
        tile = _kernel().tiles(left.dtype)[0] if _has_kernel(left.dtype) else None
    elif by == "auto" and type(left) is Tensor and left.numel() > 0 and _may_choose(left):  # no fake tensor
        tile = _choices.fastest(
            (left.device, left.dtype, left.shape, left.stride(), right.stride(), out.stride(), _tensor_float_32(left)),
            [None, *_kernel().tiles(left.dtype)],
            lambda tile: _compute(tile, left, right, alpha, diagonal, out),
        )
    _compute(tile, left, right, alpha, diagonal, out)
    return out


def refuse_triton(device: torch.device) -> None:
    """Refuses `triton` where it cannot be used.

    Raises:
        ValueError: Triton is not installed, or cannot run on this device.
    """
    if (obstacle := _obstacle(device)) is not None:
        raise ValueError(f"symmetric_products 'triton' cannot be used: {obstacle}; use 'auto' or 'matmul'")


@dataclass
class Choices:
    """The fastest of several ways of computing something, by case. A case is timed when it first occurs."""

    seconds: Callable[[Callable[[], object]], float]
    """Returns the seconds that a call takes."""
    may_time: Callable[[], bool]
    """Returns whether calls can be timed now."""
    refusals: Callable[[], tuple[type[Exception], ...]]
    """Returns the types of errors that a way raises if it cannot run on this device."""
    _fastest: dict[Hashable, Any] = field(default_factory=dict, init=False)

    def fastest(self, case: Hashable, ways: Iterable[Any], run: Callable[[Any], object]) -> Any:
        """Returns the fastest of the ways in which `run` computes, or the first, which works on every device, if the
        case is new and nothing can be timed now. The case holds everything that the times depend on."""
        default, *others = ways
        if case not in self._fastest:
            if not self.may_time():
                return default
            times = {default: self.seconds(lambda: run(default))}
            for way in others:
                try:
                    times[way] = self.seconds(lambda way=way: run(way))  # type: ignore[misc]
                except self.refusals() as refusal:
                    logger.debug("%s cannot be used: %s", way, refusal)
            self._fastest[case] = min(times, key=times.__getitem__)
            shown = ", ".join(f"{way or 'matmul'} {1e6 * time:.0f} us" for way, time in times.items())
            logger.info("symmetric product of %s: %s", case, shown)
        return self._fastest[case]


def _compute(tile: Any, left: Tensor, right: Tensor, alpha: float, diagonal: float, out: Tensor) -> None:
    """Computes the product with Triton and this tile, or with matmul if `tile` is None."""
    if tile is not None:
        with torch.cuda.device_of(left):
            precise = _tensor_float_32(left)
            _kernel().launch(left, right, out, alpha=alpha, diagonal=diagonal, tile=tile, tensor_float_32=precise)
    else:
        torch.baddbmm(out, left, right, beta=0, alpha=alpha, out=out)
        if diagonal:
            out.diagonal(dim1=-2, dim2=-1).add_(diagonal)


def _may_choose(left: Tensor) -> bool:
    return (
        left.device.type == "cuda"
        and _has_kernel(left.dtype)
        and not torch.are_deterministic_algorithms_enabled()
        and _obstacle(left.device) is None
    )


def _has_kernel(dtype: torch.dtype) -> bool:
    return dtype in (torch.bfloat16, torch.float16, torch.float32)


def _tensor_float_32(left: Tensor) -> bool:
    """Whether float32 products may use tf32, by the setting for torch's own products."""
    return left.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"


@cache
def _obstacle(device: torch.device) -> str | None:
    """Returns why Triton cannot be used on a device; None if it can. On a CUDA device it also logs the reason once."""
    obstacle = "the package triton is not installed"
    if importlib.util.find_spec("triton") is not None:
        obstacle = _kernel().obstacle(device)
    if obstacle is not None and device.type == "cuda":
        logger.warning("symmetric products are computed by matmul on %s: %s", device, obstacle)
    return obstacle


@cache
def _kernel() -> ModuleType:
    """Imports the kernel when it is first used, so that muloco.optim needs only torch."""
    return importlib.import_module("muloco.optim.symmetric_kernel")


def _device_seconds(run: Callable[[], object], *, calls: int = 5, repeats: int = 3) -> float:
    """Returns the seconds of a call on the current stream, waits for the host included: the lowest of some means."""
    run()  # compiles
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / calls)
    return min(times)


_choices = Choices(
    _device_seconds,
    may_time=lambda: not torch.cuda.is_current_stream_capturing(),
    refusals=lambda: (_kernel().TritonError,),
)
