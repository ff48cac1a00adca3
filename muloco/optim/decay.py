"""Decoupled weight decay."""

import torch
from torch import Tensor


@torch.no_grad()
def decay_(param: Tensor, direction: Tensor, amount: float | Tensor, *, cautious: bool) -> None:
    """`param` <- `param` (1 - `amount`), in place.

    Args:
        param: any shape.
        direction: what is about to be subtracted from it, up to a positive factor; read only if cautious.
        amount: learning rate times weight decay.
        cautious: leave the elements alone that the step moves away from zero (arXiv 2510.12402): those whose sign is
            opposite to the direction's.
    """
    if not cautious:
        param.mul_(1 - amount)
        return
    agrees = param.sign().mul_(direction.sign()) >= 0  # of the signs: a product of small numbers would vanish
    param.sub_(param * agrees * amount)
