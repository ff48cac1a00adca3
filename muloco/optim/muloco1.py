"""MuLoCo with one worker (K = 1) as a torch optimizer: Muon inside, Nesterov steps outside."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from muloco.optim.rule import at_least_zero, below_one, integer
from muloco.optim.rule_optimizer import RuleOptimizer
from muloco.sharding import local


class MuLoCo1(RuleOptimizer):
    """After every `sync_interval` inner steps, by the rules of `Muon`, one outer step from the anchor, where the last
    window ended:

        g = anchor - X
        buf <- outer_momentum * buf + g
        anchor <- anchor - outer_lr * (g + outer_momentum * buf)
        X <- anchor

    State of a parameter, of its shape, dtype and layout, besides that of its inner rule (see `Muon`): `anchor` and
    `outer_momentum`. Both are made at the first step with a gradient, so load a model's weights before it. A group's
    `window` counts its inner steps since its last outer step; one that a gradient scaler skips does not count. A group
    that is added later ends its first window together with the others.

    The learning rate of the inner step is the groups' `lr`, which schedulers write. In mid-window the parameters are
    ahead of the anchor: evaluate and export within `anchor_weights()`, and call `flush()` after the last step.

    Args:
        params: a module, (name, parameter) pairs, parameters or groups, as for `Muon`.
        inner_lr: the groups' `lr`, a float or a tensor of one element.
        outer_lr: at least 0; a group may have its own.
        outer_momentum: in [0, 1); a group may have its own.
        sync_interval: inner steps of a window (H), at least 1; a group may have its own.
        weight_decay: of the inner step, decoupled, multiplied by lr without the scale of `adjust_lr`.
        options: momentum, nesterov, adjust_lr, orthogonalization, steps, betas, beta2, eps, cautious_weight_decay,
            process_group and symmetric_products, see `Muon`.

    Raises:
        ValueError: as for `Muon`, and for outer options out of range.
        TypeError: as for `Muon`.

    Source: MuLoCo (arXiv 2505.23725).
    """

    own_options = {
        "outer_lr": at_least_zero,
        "outer_momentum": below_one,
        "sync_interval": integer(1),
        "window": integer(0),
    }

    _at_anchor = False

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        inner_lr: float | Tensor = 0.02,
        outer_lr: float = 0.7,
        outer_momentum: float = 0.6,
        sync_interval: int = 30,
        weight_decay: float = 0.01,
        **options: Any,
    ) -> None:
        outer = {"outer_lr": outer_lr, "outer_momentum": outer_momentum, "sync_interval": sync_interval, "window": 0}
        super().__init__(params, {"lr": inner_lr, "weight_decay": weight_decay, **outer}, options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in `torch.optim.Optimizer`; it joins the window of the groups of its `sync_interval`.

        Raises:
            ValueError: as for the class; the optimizer is then as it was.
        """
        interval = param_group.get("sync_interval", self.defaults["sync_interval"])
        windows = [group["window"] for group in self.param_groups if group["sync_interval"] == interval]
        super().add_param_group({"window": windows[0] if windows else 0, **param_group})

    @torch.no_grad()
    def flush(self) -> None:
        """Takes the outer step of every window in which inner steps have been taken, however short."""
        self._refuse_at_anchor("flush")
        for group in self.param_groups:
            if group["window"] > 0:
                self._outer_step(group)

    @contextlib.contextmanager
    def anchor_weights(self) -> Iterator[None]:
        """Within the context the parameters hold the anchor; the local values, kept meanwhile, come back afterwards."""
        self._refuse_at_anchor("anchor_weights")
        moved = [
            (local(param), local(self.state[param]["anchor"]))
            for group in self.param_groups
            if group["window"] > 0
            for param in self._synced(group)
        ]
        params, anchors = [param for param, _ in moved], [anchor for _, anchor in moved]
        kept = [param.detach().clone() for param in params]
        self._at_anchor = True
        _copy(anchors, params)
        try:
            yield
        finally:
            _copy(kept, params)
            self._at_anchor = False

    def _step(self) -> None:
        self._refuse_at_anchor("step")
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and "anchor" not in self.state[param]:
                    self.state[param]["anchor"] = param.detach().clone()
                    self.state[param]["outer_momentum"] = torch.zeros_like(param)
        super()._step()
        for group in self.param_groups:
            group["window"] += 1
            if group["window"] >= group["sync_interval"]:
                self._outer_step(group)

    def _outer_step(self, group: dict[str, Any]) -> None:
        lr, momentum = group["outer_lr"], group["outer_momentum"]
        for param in self._synced(group):
            buffers = self.state[param]
            here, anchor, buffer = local(param), local(buffers["anchor"]), local(buffers["outer_momentum"])
            pseudogradient = anchor - here
            buffer.mul_(momentum).add_(pseudogradient)
            anchor.sub_(pseudogradient.add_(buffer, alpha=momentum), alpha=lr)
            here.copy_(anchor)
        group["window"] = 0

    def _synced(self, group: dict[str, Any]) -> list[Tensor]:
        """Returns the parameters that have had a gradient."""
        return [param for param in group["params"] if "anchor" in self.state.get(param, {})]

    def _refuse_at_anchor(self, what: str) -> None:
        if self._at_anchor:
            raise RuntimeError(f"{what} within anchor_weights(), where the parameters hold the anchor; leave it first")


@torch.no_grad()
def _copy(values: list[Tensor], params: list[Tensor]) -> None:
    for param, value in zip(params, values, strict=True):
        param.copy_(value)
