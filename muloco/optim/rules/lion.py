"""Lion, the sign of an interpolated momentum (arXiv 2302.06675)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from muloco.optim.rule import Rule
from muloco.optim.rules.adamw import BETAS

if TYPE_CHECKING:
    from torch import Tensor


def step(params: "list[Tensor]", group: dict[str, Any], state: "Mapping[Tensor, Any]") -> None:
    """Takes one step, in place, of parameters that have a gradient. With gradient G, momentum M and parameter X:

    U = sign(beta1 M + (1 - beta1) G);  X <- X (1 - lr weight_decay) - lr U;  M <- beta2 M + (1 - beta2) G
    """
    import torch

    from muloco.optim.passes import decay_

    beta1, beta2 = group["betas"]
    lr = group["lr"] * group["lr_factor"]
    for param in params:
        assert param.grad is not None
        buffers = state[param]
        if "exp_avg" not in buffers:
            buffers["exp_avg"] = torch.zeros_like(param)
        direction = buffers["exp_avg"].lerp(param.grad, 1 - beta1).sign_()
        decay_(param, direction, lr * group["weight_decay"], cautious=group["cautious_weight_decay"])
        param.sub_(direction.mul_(lr))
        buffers["exp_avg"].lerp_(param.grad, 1 - beta2)


RULE = Rule(
    name="lion",
    label="Lion",
    about="the sign of an interpolated momentum",
    options=(BETAS,),
    state={"exp_avg": "element"},
    step=step,
)
