"""Generalized Primal Averaging: the smoothed form of a single worker's outer steps, with one buffer and no window."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from muloco.optim.rule import above_zero_to_one, below_one
from muloco.optim.rule_optimizer import RuleOptimizer
from muloco.sharding import local


class GPA(RuleOptimizer):
    """Three points for each parameter: z takes the inner steps, x is their average, gradients are taken at y between
    them, which the parameter holds:

        y = mu_y x + (1 - mu_y) z
        z <- z - lr * step(gradient at y), by the rules of `Muon`, weight decay included
        x <- mu_x x + (1 - mu_x) z

    State of a parameter, besides that of its inner rule (see `Muon`): `z`, of its shape, dtype and layout. It is made
    at the first step with a gradient, so load a model's weights before it. x is not kept: it follows from y and z.

    Evaluate and export within `average_weights()`, where the parameters hold x.

    Args:
        params: a module, (name, parameter) pairs, parameters or groups, as for `Muon`. For averaged AdamW give groups
            with `"algorithm": "adamw"`.
        lr: of the inner steps, a float or a tensor of one element.
        mu_x: share of x that a step keeps, in [0, 1). 0.9967 is like a window of H = 32 inner steps (0.9934: 16,
            0.9984: 64); a group may have its own.
        mu_y: weight of x in y, the point at which gradients are computed, in (0, 1]; a group may have its own.
        weight_decay: of z, decoupled, multiplied by lr without the scale of `adjust_lr`.
        options: momentum, nesterov, adjust_lr, orthogonalization, steps, betas, beta2, eps, cautious_weight_decay,
            process_group and symmetric_products, see `Muon`.

    Raises:
        ValueError: as for `Muon`, and for mu_x or mu_y out of range.
        TypeError: as for `Muon`.

    Source: Defazio et al., "Smoothing DiLoCo with Primal Averaging" (arXiv 2512.17131).
    """

    own_options = {"mu_x": below_one, "mu_y": above_zero_to_one}

    _early: dict[Tensor, Tensor]
    """z of parameters that have taken no step yet."""

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float | Tensor = 0.02,
        mu_x: float = 0.9967,
        mu_y: float = 0.7,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        self._early = {}
        super().__init__(params, {"lr": lr, "mu_x": mu_x, "mu_y": mu_y, "weight_decay": weight_decay}, options)

    def z(self, param: Tensor) -> Tensor:
        """Returns the z of a parameter, which is created if need be. It stays the same tensor, whatever is loaded.
        Write into it only within `moving_z`."""
        if "z" in self.state.get(param, {}):
            return self.state[param]["z"]
        if param not in self._early:
            self._early[param] = param.detach().clone()
        return self._early[param]

    @contextlib.contextmanager
    def average_weights(self) -> Iterator[None]:
        """Within the context the parameters hold x; y, kept meanwhile, comes back afterwards."""
        kept = [(param, param.detach().clone()) for group in self.param_groups for param in group["params"]]
        self._to_average(param for param, _ in kept)
        try:
            yield
        finally:
            with torch.no_grad():
                for param, y in kept:
                    param.copy_(y)

    @contextlib.contextmanager
    def moving_z(self, params: Iterable[Tensor]) -> Iterator[None]:
        """Within the context the z of these parameters may be written, as by averaging it over workers. Their x stays,
        and y follows: it is mu_y x + (1 - mu_y) z again afterwards."""
        params = list(params)
        self._to_average(params)
        yield
        self._to_y(params)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`.

        Raises:
            ValueError: as for the class; the optimizer is then unchanged.
        """
        params = [param for group in self.param_groups for param in group["params"]]
        before = {param: z for param in params if (z := self._existing_z(param)) is not None}
        super().load_state_dict(state_dict)
        self._early = {}
        with torch.no_grad():
            for param, z in before.items():
                if "z" in self.state.get(param, {}):
                    self.state[param]["z"] = z.copy_(self.state[param]["z"])
                else:
                    self._early[param] = z

    def _step(self) -> None:
        """Each parameter holds its z while that takes its inner step, and the buffer what x leaves in the new y:

        y <- mu_x mu_y x + (1 - mu_x mu_y) z
        """
        given = [(param, group) for group in self.param_groups for param in group["params"] if param.grad is not None]
        for param, group in given:
            buffers = self.state[param]
            if "z" not in buffers:
                buffers["z"] = self.z(param)
                self._early.pop(param)
            y, z = local(param), local(buffers["z"])
            left = y.sub(z, alpha=1 - group["mu_y"]).mul_(group["mu_x"])
            y.copy_(z)
            z.copy_(left)
        super()._step()
        for param, group in given:
            new, left = local(param), local(self.state[param]["z"])
            y = left.add(new, alpha=1 - group["mu_x"] * group["mu_y"])
            left.copy_(new)
            new.copy_(y)

    @torch.no_grad()
    def _to_average(self, params: Iterable[Tensor]) -> None:
        for y, z, mu_y in self._points(params):
            y.sub_(z, alpha=1 - mu_y).div_(mu_y)

    @torch.no_grad()
    def _to_y(self, params: Iterable[Tensor]) -> None:
        for x, z, mu_y in self._points(params):
            x.mul_(mu_y).add_(z, alpha=1 - mu_y)

    def _points(self, params: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, float]]:
        """This rank's parts of those parameters that have a z, and of z; and mu_y."""
        wanted = set(params)
        for group in self.param_groups:
            for param in group["params"]:
                if param in wanted and (z := self._existing_z(param)) is not None:
                    yield local(param), local(z), group["mu_y"]

    def _existing_z(self, param: Tensor) -> Tensor | None:
        return self.state.get(param, {}).get("z", self._early.get(param))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_early", {})
