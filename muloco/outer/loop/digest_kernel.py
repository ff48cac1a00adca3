"""The sum of `muloco.outer.loop.digest` on a GPU, as a Triton kernel that reads each element once."""

import triton
import triton.language as tl
from torch import Tensor

from muloco.outer.loop import digest

_BLOCK = 4096  # elements that a program processes
_GOLDEN = tl.constexpr(digest._GOLDEN)


def add(total: Tensor, words: Tensor, start: int) -> None:
    """Adds the sum over i of words[i] x ((i + start) x golden | 1), modulo 2^64, to `total`. The order does not matter.

    Args:
        total: int64 scalar on the GPU, changed in place.
        words: int8, int16, int32 or int64 [n], n at least 1.
        start: index of the first word among all words of the digest.
    """
    count = words.numel()
    _add[(triton.cdiv(count, _BLOCK),)](total, words, start, count, _BLOCK)


@triton.jit
def _add(total, words, start, count, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    word = tl.load(words + index, mask=index < count, other=0).to(tl.int64)
    tl.atomic_add(total, tl.sum(word * ((index + start) * _GOLDEN | 1), 0), sem="relaxed")
