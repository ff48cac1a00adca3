"""The losses of the batches of the held-out set, which workers hand to each other. Needs nothing but Python."""

import json
import math
from collections.abc import Mapping

Losses = dict[int, tuple[float, int]]
"""By number of the batch: the sum of its tokens' losses in nats, and how many tokens these are."""


def mean(losses: Mapping[int, tuple[float, int]]) -> float:
    """The loss a token; the sum over the batches is rounded once, so that it has the same bits in any order."""
    return math.fsum(total for total, _ in losses.values()) / sum(tokens for _, tokens in losses.values())


def pack(losses: Mapping[int, tuple[float, int]]) -> bytes:
    """For another worker; no bit is lost."""
    return json.dumps([[batch, *loss] for batch, loss in losses.items()]).encode()


def unpack(data: bytes, *, batches: int) -> Losses:
    """What `pack` was given.

    Args:
        data: as it came.
        batches: of the whole held-out set.

    Raises:
        ValueError: these are no losses of such batches.
    """
    try:
        losses = {batch: (float(total), tokens) for batch, total, tokens in json.loads(data)}
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"the losses cannot be read: {error}") from None
    if not all(type(batch) is type(tokens) is int for batch, (_, tokens) in losses.items()):
        raise ValueError("the numbers of batches and tokens must be integers")
    if not all(0 <= batch < batches and tokens >= 0 for batch, (_, tokens) in losses.items()):
        raise ValueError(f"batches must be from 0 to {batches - 1}, and numbers of tokens must not be negative")
    return losses
