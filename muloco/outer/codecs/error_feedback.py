"""Error feedback: what compression loses of a piece is added to the next one."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from muloco.outer.codecs import Codec


def encode(
    codec: Codec,
    piece: Tensor,
    residual: Tensor | None,
    decay: float = 0.9,
    alpha: float = 1.0,
    gain: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Encodes one piece as `encode_pieces` does.

    Args:
        residual: fp32 of the shape of `piece`; None stands for zeros.

    Returns:
        payload, uint8 [payload_bytes(piece.shape)]; new residual, fp32 of the shape of `piece`.
    """
    if residual is None:
        residual = torch.zeros(piece.shape, device=piece.device)
    payloads, left = encode_pieces(codec, [piece], residual[None], decay, alpha, gain)
    return payloads[0], left[0]


@torch.no_grad()
def encode_pieces(
    codec: Codec,
    pieces: Sequence[Tensor],
    residual: Tensor,
    decay: float = 0.9,
    alpha: float = 1.0,
    gain: float = 1.0,
    *,
    encode: Callable[[Sequence[Tensor]], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Encodes pieces with error feedback: e = decay x residual + gain x piece; the payload is that of e, and the new
    residual is e - alpha x (the decoded payload).

    With a gain of 1 the outer learning rate acts once, in the outer optimizer. The paper's code uses the outer
    learning rate as the gain, so that it acts twice on compressed tensors.

    If a single element of e or of the decoded payload is not finite, the piece keeps its old residual. Otherwise a NaN
    would stay in the residual for good, because a quantized piece with one NaN decodes to NaN throughout. The payload
    still decodes to values that are not finite, and the headers of the exchange tell all members, which refuse the
    round, so nothing is lost silently.

    Args:
        codec: see `build_codec`.
        pieces: at least one; all of one shape, of any floating dtype; not changed.
        residual: fp32 [pieces, *shape], on the device of the pieces. Not changed: the caller replaces
            it by the new one once the round has committed, and keeps it for a retry until then.
        decay: share of the residual that is kept, from 0 to 1.
        alpha: share of what was sent that is taken off, from 0 to 1.
        gain: factor on the pieces, greater than 0.
        encode: encodes in place of `codec.encode_pieces`, as from the states of a stateful codec.

    Returns:
        payloads, uint8 [pieces, payload_bytes(shape)]; new residual, fp32 [pieces, *shape].

    Raises:
        ValueError: decay, alpha or gain out of range, or a residual of another shape.
    """
    for name, value in (("decay", decay), ("alpha", alpha)):
        if not 0 <= value <= 1:
            raise ValueError(f"the {name} of error feedback must be from 0 to 1; got {value!r}")
    if not 0 < gain < math.inf:
        raise ValueError(f"the gain of error feedback must be above 0 and finite; got {gain!r}")
    if residual.shape[1:] != pieces[0].shape:
        raise ValueError(f"the residual has shape {tuple(residual.shape[1:])}, the piece {tuple(pieces[0].shape)}")
    left = torch.mul(residual, decay).contiguous()
    corrected = left.unbind()
    torch._foreach_add_(corrected, [piece.detach() for piece in pieces], alpha=gain)
    payloads = (encode or codec.encode_pieces)(corrected)
    codec.decode_pieces(payloads, corrected, weight=-alpha, add=True)
    if left.numel():
        largest = torch.linalg.vector_norm(left.view(len(left), -1), math.inf, dim=1)
        torch.where(largest.isfinite().view(-1, *(1,) * (left.dim() - 1)), left, residual, out=left)
    return payloads, left
