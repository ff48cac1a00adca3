"""Codecs, which turn pieces of a pseudogradient into bytes and back (PAPER 3.4). They need torch, and Triton on a GPU.

A codec is a pure function of one tensor and of its settings. The size of a payload follows from shape and settings
alone; equal pieces give equal payloads (on one device with one thread count), alone or encoded together with others,
and equal payloads decode to the same bits on every device. The host never waits for a GPU here, and no result depends
on an order of summation that could vary.

| kind          | bits   | granularity | decodes to                                                                 |
|---------------|--------|-------------|----------------------------------------------------------------------------|
| `none`        |        |             | the piece, bit by bit, in fp32                                             |
| `bf16`        |        |             | the piece, rounded                                                         |
| `linear`      | 1 to 8 | tensor, row | the nearest of 2^bits even steps from the least to the greatest element    |
| `statistical` | 1 to 8 | tensor, row | an even grid of 2^bits bins over 6 standard deviations, each bin its mean  |
| `lloyd_max`   | 1 to 8 | tensor, row | the 2^bits levels of least squared error for these very elements           |
| `topk`        | values | tensor      | the share `fraction` of the elements that are greatest in magnitude, else 0 |

Byte layout, little endian; n elements, b bits, R rows (R = 1 at granularity `tensor`; else the first dimension, a
piece of fewer than two dimensions being one row). A piece without elements has a payload without bytes.

    none          n fp32
    bf16          n bf16
    linear        R x (least element, step) fp32; n codes
    statistical   R x 2^b levels fp32; n codes
    lloyd_max     R x 2^b levels fp32; n codes
    topk          the k values that stay, in order of their index: k fp32, k bf16, or a payload of the chosen kind;
                  then their k indices, ascending, in the fewest whole bits that hold n - 1

Codes are packed without gaps, least significant bit first, over all rows: ceil(n b / 8) bytes (`packing.pack`). Indices
of more than 8 bits: first the lowest byte of each, then the second, ...; then the rest as codes (`packing.pack_wide`).

A piece with NaN or infinities encodes to a payload of the usual size. Dense kinds and unquantized top-k carry such
elements as they are, top-k counting NaN as the greatest of all; a quantized row or tensor that holds one decodes to NaN
throughout. Whether a piece is finite is for the exchange to tell (its header has a flag).
"""

from collections.abc import Callable

import torch

from muloco.outer.codec_settings import KINDS, VALUES, check_settings
from muloco.outer.codecs.codec import Codec
from muloco.outer.codecs.dense import Dense
from muloco.outer.codecs.linear import Linear
from muloco.outer.codecs.lloyd_max import LloydMax
from muloco.outer.codecs.statistical import Statistical
from muloco.outer.codecs.topk import TopK

__all__ = ["KINDS", "Codec", "build_codec"]

DENSE = {"none": torch.float32, "bf16": torch.bfloat16}
QUANTIZED: dict[str, Callable[[int, bool], Codec]] = {
    "linear": Linear,
    "statistical": Statistical,
    "lloyd_max": LloydMax,
}


def build_codec(
    kind: str,
    *,
    bits: int | None = None,
    granularity: str = "tensor",
    fraction: float | None = None,
    values: str | None = None,
) -> Codec:
    """The codec of that kind and those settings.

    Args:
        kind: one of `KINDS`.
        bits: 1 to 8 a code, for `linear`, `statistical`, `lloyd_max`, and for `topk` with values of these kinds.
        granularity: `tensor`, one codebook a piece; or `row`, one for each index of the first dimension, for `linear`,
            `statistical` and `lloyd_max`.
        fraction: share of the elements that `topk` keeps, above 0 and at most 1. Of n elements it keeps n x fraction,
            rounded, and at least 1.
        values: how `topk` carries values: `fp32` (the default), `bf16`, `linear`, `statistical` or `lloyd_max`.

    Raises:
        ValueError: unknown kind, a setting out of range, one that is missing, or one that the kind does not take.
    """
    check_settings(kind, bits=bits, granularity=granularity, fraction=fraction, values=values)
    if kind == "topk":
        assert fraction is not None
        return TopK(float(fraction), build_codec(VALUES[values or "fp32"], bits=bits))
    if kind in DENSE:
        return Dense(DENSE[kind])
    assert bits is not None
    return QUANTIZED[kind](bits, granularity == "row")
