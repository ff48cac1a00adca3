"""Error feedback: what compression lost of a piece is added to the next one (PAPER 3.3)."""

import math

import torch
from torch import Tensor

from muloco.outer.codecs import Codec


@torch.no_grad()
def encode(
    codec: Codec,
    piece: Tensor,
    residual: Tensor | None,
    decay: float = 0.9,
    alpha: float = 1.0,
    gain: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """e = decay x residual + gain x piece; the payload is that of e; the new residual is e - alpha x (what it says).

    With a gain of 1 the outer learning rate acts once, in the outer optimizer. The paper's code has the outer learning
    rate as the gain, so that it acts twice on what is compressed.

    Where e or what the payload says of it is not finite, in a single element, the new residual is the old one, as if
    this round had not been: a NaN would otherwise stay in it for good, since all that is left of a quantized piece
    with one NaN is NaN. The payload still decodes to what is not finite, and the header of the exchange tells all
    members, which refuse the round; so nothing is lost in silence.

    Args:
        codec: see `build_codec`.
        piece: any shape and floating dtype; not changed.
        residual: fp32 of the shape of `piece`, on its device; None stands for zeros. Not changed: the caller puts the
            new one in its place once the round has committed, and keeps the old one for a retry.
        decay: share of the residual that is kept, from 0 to 1.
        alpha: share of what was sent that is taken off, from 0 to 1.
        gain: factor on the piece, greater than 0.

    Returns:
        payload, uint8 [payload_bytes(piece.shape)]; new residual, fp32 of the shape of `piece`.

    Raises:
        ValueError: decay, alpha or gain out of range, or a residual of another shape.
    """
    for name, value in (("decay", decay), ("alpha", alpha)):
        if not 0 <= value <= 1:
            raise ValueError(f"the {name} of error feedback must be from 0 to 1; got {value!r}")
    if not 0 < gain < math.inf:
        raise ValueError(f"the gain of error feedback must be above 0 and finite; got {gain!r}")
    if residual is None:
        residual = torch.zeros(piece.shape, device=piece.device)
    if residual.shape != piece.shape:
        raise ValueError(f"the residual has shape {tuple(residual.shape)}, the piece {tuple(piece.shape)}")
    corrected = torch.mul(residual, decay).add_(piece.detach(), alpha=gain)
    payload = codec.encode(corrected)
    left = corrected.sub_(codec.decode(payload, piece.shape), alpha=alpha)
    return payload, torch.where(torch.isfinite(left).all(), left, residual)
