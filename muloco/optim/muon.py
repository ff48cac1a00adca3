"""Muon: momentum, orthogonalized."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from muloco.optim.lookup import lookup
from muloco.optim.orthogonalize import coefficients, orthogonalize
from muloco.sharding import gather, local, shard_like

__all__ = ["LR_SCALES", "Muon"]

LR_SCALES: dict[str, Callable[[int, int], float]] = {
    "spectral_norm": lambda rows, cols: math.sqrt(rows / cols),
    "rms_norm": lambda rows, cols: 0.2 * math.sqrt(max(rows, cols)),
    "none": lambda rows, cols: 1.0,
}
"""What the learning rate of a `[rows, cols]` = `[fan_out, fan_in]` matrix is multiplied by, by name."""

BATCH_ELEMENTS = 2**21
"""Matrices of one shape are orthogonalized together, up to so many elements: more leave a CPU's caches, fewer leave
its cores idle when the matrices are small."""


class Muon(torch.optim.Optimizer):
    """Muon, for matrices. With momentum M, gradient G and parameter X of shape `[fan_out, fan_in]`:

        M <- momentum * M + G
        U  = G + momentum * M if nesterov else M
        X <- X * (1 - lr * weight_decay)
        X <- X - lr * scale * orthogonalize(U)

    Parameters may be DTensors: the full matrix is then orthogonalized, and the momentum is sharded as its parameter is.
    Every rank of the mesh must step the same parameters in the same order. State: `momentum_buffer`, of the shape,
    dtype and layout of its parameter. Keys of a parameter group that Muon does not know are left alone.

    Args:
        params: matrices, (name, matrix) pairs or parameter groups; every option can be set by group.
        lr: learning rate, a float or a tensor of one element.
        momentum: in [0, 1).
        nesterov: look one momentum step ahead.
        weight_decay: decoupled, times the unscaled lr.
        adjust_lr: the scale, a name in `LR_SCALES`: `spectral_norm` sqrt(fan_out / fan_in), `rms_norm`
            0.2 sqrt(max(fan_out, fan_in)), or `none`.
        orthogonalization: a name in `PRESETS`.
        steps: orthogonalization steps; None for the preset's own number.

    Raises:
        ValueError: a parameter that is not a real matrix, an unknown name, or a number out of range.

    Source: MuLoCo (arXiv 2505.23725), whose inner optimizer the defaults are; Keller Jordan, "Muon: An optimizer for
    hidden layers in neural networks" (2024); `rms_norm` is from "Muon is Scalable for LLM Training" (arXiv 2502.16982).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        adjust_lr: str = "spectral_norm",
        orthogonalization: str = "muloco",
        steps: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "adjust_lr": adjust_lr,
            "orthogonalization": orthogonalization,
            "steps": steps,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in `torch.optim.Optimizer`.

        Raises:
            ValueError: as for the class; the optimizer is then as it was.
        """
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure`, called first, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for params in _batches(group["params"]):
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        updates = torch.stack([gather(self._accumulate(param, group)) for param in params])
        directions = orthogonalize(updates, group["orthogonalization"], group["steps"])
        lr = group["lr"]
        # Multiplied, not passed as alpha: reading an lr that is a tensor would wait for the device.
        directions.mul_(lr * lookup(LR_SCALES, group["adjust_lr"], "adjust_lr")(*params[0].shape))
        for param, direction in zip(params, directions, strict=True):
            local(param).mul_(1 - lr * group["weight_decay"]).sub_(shard_like(direction, param))

    def _accumulate(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        assert param.grad is not None
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(param.grad)
        return param.grad.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer


def _batches(params: list[Tensor]) -> Iterator[list[Tensor]]:
    """The parameters that have a gradient, alike ones together, at most `BATCH_ELEMENTS` (or one matrix) at a time."""
    alike: dict[tuple, list[Tensor]] = {}
    for param in params:
        if param.grad is not None:
            alike.setdefault((param.shape, param.dtype, param.device), []).append(param)
    for same in alike.values():
        size = max(1, BATCH_ELEMENTS // max(1, same[0].numel()))
        for start in range(0, len(same), size):
            yield same[start : start + size]


def _check(group: dict[str, Any]) -> None:
    names = group.get("param_names", [None] * len(group["params"]))
    for name, param in zip(names, group["params"], strict=True):
        if param.ndim != 2 or not param.is_floating_point():
            called = f" {name!r}" if name is not None else ""
            raise ValueError(
                f"Muon takes real matrices only, parameter{called} has shape {tuple(param.shape)} and {param.dtype}"
            )
    if not group["lr"] >= 0:
        raise ValueError(f"lr must be at least 0, not {group['lr']}")
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"momentum must be in [0, 1), not {group['momentum']}")
    if not group["weight_decay"] >= 0:
        raise ValueError(f"weight_decay must be at least 0, not {group['weight_decay']}")
    lookup(LR_SCALES, group["adjust_lr"], "adjust_lr")
    coefficients(group["orthogonalization"], group["steps"])
