"""AdamW, the rule of torch.optim.AdamW (arXiv 1711.05101)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from muloco.optim.rule import Option, Rule, at_least_zero, pair_below_one, switch_or_none

if TYPE_CHECKING:
    from torch import Tensor

BETAS = Option(name="betas", default=(0.9, 0.99), read=pair_below_one, about="decay rates of the moments")
EPS = Option(
    name="eps",
    default=1e-8,
    default_text="1e-8",
    read=at_least_zero,
    about="added to the root of the second moment",
    in_all_groups=True,
)
_IMPLEMENTATION: dict[str, Any] = {
    "default": None,
    "default_text": "fused on an accelerator, torch's default on the CPU",
    "read": switch_or_none,
    "about": "the implementation, as in `torch.optim.AdamW`",
    "in_constructor": False,
    "allowed_everywhere": True,
}

FUSED = frozenset({"cuda", "mps", "xpu"})
"""Types of devices on which torch's fused AdamW is the default."""


def step(params: "list[Tensor]", group: dict[str, Any], state: "Mapping[Tensor, Any]") -> None:
    """Takes one step, in place, of parameters that have a gradient.

    `fused` and `foreach` in the group choose torch's implementation, as in torch.optim.AdamW. If the group has neither,
    the fused implementation is used on an accelerator, which moves half the bytes, and torch's default on the CPU.
    """
    import torch
    from torch.optim.adamw import adamw

    from muloco.optim.passes import decay_

    if not params:
        return
    beta1, beta2 = group["betas"]
    lr = group["lr"] * group["lr_factor"]
    weight_decay = group["weight_decay"]
    states = [state[param] for param in params]
    fused, foreach = group.get("fused"), group.get("foreach")
    if fused is None and foreach is None and all(param.device.type in FUSED for param in params):
        fused = True
    for param, buffers in zip(params, states, strict=True):
        place = param.device if fused else torch.device("cpu")  # where torch keeps `step`
        if "step" in buffers:
            buffers["step"] = buffers["step"].to(place)  # a checkpoint of another implementation has it elsewhere
        else:
            buffers["step"] = torch.zeros((), device=place)
            buffers["exp_avg"] = torch.zeros_like(param)
            buffers["exp_avg_sq"] = torch.zeros_like(param)
    if group["cautious_weight_decay"]:
        for param, buffers in zip(params, states, strict=True):
            direction = buffers["exp_avg"].lerp(param.grad, 1 - beta1)  # the update has its signs
            decay_(param, direction, lr * weight_decay, cautious=True)
        weight_decay = 0.0
    adamw(
        params,
        [param.grad for param in params],  # type: ignore[misc]  # the caller leaves those without out
        [buffers["exp_avg"] for buffers in states],
        [buffers["exp_avg_sq"] for buffers in states],
        [],
        [buffers["step"] for buffers in states],
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


RULE = Rule(
    name="adamw",
    label="AdamW",
    about="two moments of each element",
    options=(BETAS, EPS, Option(name="fused", **_IMPLEMENTATION), Option(name="foreach", **_IMPLEMENTATION)),
    state={"step": "tensor", "exp_avg": "element", "exp_avg_sq": "element"},
    step=step,
)
