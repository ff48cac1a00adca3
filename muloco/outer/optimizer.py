"""The outer optimizer: one step on the anchor with the mean pseudogradient as gradient."""

from collections.abc import Sequence

import torch


def build_outer_optimizer(
    anchor: Sequence[torch.Tensor], *, class_name: str, lr: float, momentum: float, nesterov: bool
) -> torch.optim.Optimizer:
    """buf = momentum buf + g; theta -= lr (g + momentum buf) with Nesterov, else theta -= lr buf.

    At a constant lr this is the outer step of the paper's Algorithm 1 (PAPER 3.1).

    Args:
        anchor: plain fp32 tensors that the optimizer moves in place.
        class_name: `sgd`.
        lr: outer learning rate, above 0.
        momentum: from 0 to below 1; at 0, Nesterov makes no difference.
        nesterov: see above.

    Raises:
        ValueError: unknown class_name.
    """
    if class_name != "sgd":
        raise ValueError(f"outer_optimizer.class_name must be sgd; got {class_name!r}")
    optimizer = torch.optim.SGD(anchor, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, foreach=False)
    if momentum > 0:
        for tensor in anchor:  # a fresh buffer of zeros steps like none, and a checkpoint always finds one
            optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
    return optimizer
