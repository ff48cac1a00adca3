"""A 64-bit checksum of tensors' bit patterns, computed where the tensors live."""

from collections.abc import Callable, Iterable
from functools import cache

import torch

_GOLDEN = -7046029254386353131  # 2^64 / golden ratio as a signed integer: spreads consecutive indices
_BLOCK = 2**16  # elements in a block, which fits into a CPU's cache
_WORD = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Sum of (bits of element i) x (an odd number that depends on i), modulo 2^64.

    Any single changed bit changes it, as do exchanged elements but for a chance of about 2^-64. Equal bits give equal
    digests on every device.

    Args:
        tensors: dense tensors of 1, 2, 4 or 8 bytes an element, read in order.

    Returns:
        int64 scalar on the device of the tensors (of the CPU where there are none).
    """
    total, start = None, 0
    for tensor in tensors:
        words = tensor.detach().contiguous().view(-1).view(_WORD[tensor.element_size()])
        if total is None:
            total = torch.zeros((), dtype=torch.int64, device=words.device)
        if words.numel():
            _add_to(total)(total, words, start)
        start += words.numel()
    return torch.zeros((), dtype=torch.int64) if total is None else total


def _add_to(total: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor, int], None]:
    """Returns the function that adds words to `total`: on a GPU a Triton kernel, as CUDA builds of torch include
    Triton."""
    if total.device.type != "cuda":
        return _add
    from muloco.outer.loop import digest_kernel

    return digest_kernel.add


def _add(total: torch.Tensor, words: torch.Tensor, start: int) -> None:
    first = _first_factors(_BLOCK, words.device)
    for block in words.split(_BLOCK):
        factors = first[: block.numel()] + _signed(start * _GOLDEN)
        factors |= 1
        factors *= block
        total += factors.sum()
        start += block.numel()


@cache
def _first_factors(count: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int64, device=device) * _GOLDEN


def _signed(value: int) -> int:
    """Returns the same 64 bits as a signed integer."""
    return (value + 2**63) % 2**64 - 2**63
