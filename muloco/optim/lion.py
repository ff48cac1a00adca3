"""Lion, the sign of an interpolated momentum, for one parameter group (arXiv 2302.06675)."""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor

from muloco.optim.decay import decay_


def lion_update(params: list[Tensor], group: dict[str, Any], state: MutableMapping[Tensor, Any]) -> None:
    """One step, in place, of parameters that have a gradient; state: `exp_avg`. With gradient G and parameter X:

    U = sign(beta1 M + (1 - beta1) G);  X <- X (1 - lr weight_decay) - lr U;  M <- beta2 M + (1 - beta2) G
    """
    beta1, beta2 = group["betas"]
    lr = group["lr"] * group["lr_factor"]
    for param in params:
        assert param.grad is not None
        own = state[param]
        if "exp_avg" not in own:
            own["exp_avg"] = torch.zeros_like(param)
        direction = own["exp_avg"].lerp(param.grad, 1 - beta1).sign_()
        decay_(param, direction, lr * group["weight_decay"], cautious=group["cautious_weight_decay"])
        param.sub_(direction.mul_(lr))
        own["exp_avg"].lerp_(param.grad, 1 - beta2)
