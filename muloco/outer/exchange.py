"""The mean of the workers' pseudogradients: all-to-all, mean at the owner, all-gather."""

from collections.abc import Sequence

import torch

from muloco.outer.transport import Round

CHUNK_BYTES = 16 * 2**20
"""Largest tensor that one worker sends to another at once."""


def average(round: Round, flat: torch.Tensor, weights: Sequence[int]) -> None:
    """Replaces `flat` by the weighted mean over the members of a round; the same bits on every member.

    Each member owns an equal part of every chunk: it receives that part from all, adds in rank order in fp32, and
    sends the mean back, so that 2 (K - 1) / K x 4 n bytes leave each worker.

    Args:
        round: open round.
        flat: fp32 [n] on the transport's device, overwritten.
        weights: one a member, in rank order; those of weight 0 do not contribute.

    Raises:
        ValueError: all weights are 0.
    """
    total = sum(weights)
    if total <= 0:
        raise ValueError(f"the weights of a round must not sum to 0; got {list(weights)}")
    if round.size == 1:
        return
    shares = [weight / total for weight in weights]
    part = min(CHUNK_BYTES // flat.element_size(), -(-flat.numel() // round.size))
    for piece in flat.split(part * round.size):
        padded = -(-piece.numel() // round.size) * round.size
        outgoing = torch.nn.functional.pad(piece, (0, padded - piece.numel())).view(round.size, -1)
        incoming = round.all_to_all(outgoing)
        mean = torch.zeros_like(incoming[0])
        for share, row in zip(shares, incoming, strict=True):
            if share:
                mean.add_(row, alpha=share)
        piece.copy_(torch.cat(round.all_gather(mean))[: piece.numel()])
