"""AdamW, the rule of torch.optim.AdamW, for one parameter group."""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from muloco.optim.decay import decay_

FUSED = frozenset({"cuda", "mps", "xpu"})
"""Types of devices on which torch's fused AdamW is the default."""


def adamw_update(params: list[Tensor], group: dict[str, Any], state: MutableMapping[Tensor, Any]) -> None:
    """Takes one step, in place, of parameters that have a gradient; state: `step`, `exp_avg`, `exp_avg_sq`.

    `fused` and `foreach` in the group choose torch's implementation, as in torch.optim.AdamW. If the group has neither,
    the fused implementation is used on an accelerator, which moves half the bytes, and torch's default on the CPU.
    """
    if not params:
        return
    beta1, beta2 = group["betas"]
    lr = group["lr"] * group["lr_factor"]
    weight_decay = group["weight_decay"]
    states = [state[param] for param in params]
    fused, foreach = group.get("fused"), group.get("foreach")
    if fused is None and foreach is None and all(param.device.type in FUSED for param in params):
        fused = True
    for param, own in zip(params, states, strict=True):
        place = param.device if fused else torch.device("cpu")  # where torch keeps `step`
        if "step" in own:
            own["step"] = own["step"].to(place)  # a checkpoint of another implementation may have it elsewhere
        else:
            own["step"] = torch.zeros((), device=place)
            own["exp_avg"] = torch.zeros_like(param)
            own["exp_avg_sq"] = torch.zeros_like(param)
    if group["cautious_weight_decay"]:
        for param, own in zip(params, states, strict=True):
            direction = own["exp_avg"].lerp(param.grad, 1 - beta1)  # the update has its signs
            decay_(param, direction, lr * weight_decay, cautious=True)
        weight_decay = 0.0
    adamw(
        params,
        [param.grad for param in params],  # type: ignore[misc]  # the caller leaves those without out
        [own["exp_avg"] for own in states],
        [own["exp_avg_sq"] for own in states],
        [],
        [own["step"] for own in states],
        foreach=foreach,
        fused=fused,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        weight_decay=weight_decay,
        eps=group["eps"],
        maximize=False,
    )
