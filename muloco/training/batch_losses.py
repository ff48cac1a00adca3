"""Losses of batches of the held-out set, which workers send to each other. This module needs only Python."""

import json
import math
from collections.abc import Mapping

Losses = dict[int, tuple[float, int]]
"""For each batch, by its number: the sum of the losses of its tokens in nats, and the number of these tokens."""


def mean(losses: Mapping[int, tuple[float, int]]) -> float:
    """Returns the mean loss in nats a token. The sum over the batches is rounded once, so that its bits do not depend
    on their order."""
    return math.fsum(total for total, _ in losses.values()) / sum(tokens for _, tokens in losses.values())


def pack(losses: Mapping[int, tuple[float, int]]) -> bytes:
    """Returns losses as bytes for another worker, exactly."""
    return json.dumps([[batch, *loss] for batch, loss in losses.items()]).encode()


def unpack(data: bytes, *, batches: int) -> Losses:
    """Returns the losses that `pack` was given, of a held-out set of so many batches.

    Raises:
        ValueError: the bytes do not hold losses of such batches.
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
