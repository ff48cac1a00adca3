"""The watch over the gradients, on plain tensors; tests/model/test_sharded.py has it on DTensors."""

import pytest
import torch
from torch import nn

from muloco.training.finite import GradientWatch, NonFiniteGradient

NAN, INF = float("nan"), float("inf")


def parameters(device: str = "cpu") -> dict[str, nn.Parameter]:
    shapes = {"first": (3, 4), "empty": (0, 4), "frozen": (2,), "norm": (5,), "last": (6, 2)}
    named = {name: nn.Parameter(torch.ones(shape, device=device)) for name, shape in shapes.items()}
    for name, parameter in named.items():
        if name != "frozen":
            parameter.grad = torch.zeros_like(parameter)
    return named


def test_finite_gradients_pass_however_large() -> None:
    """A sum of squares, or of the elements, would overflow."""
    named = parameters()
    named["first"].grad.fill_(torch.finfo(torch.float32).max)
    named["last"].grad.fill_(torch.finfo(torch.float32).min)
    watch = GradientWatch(named)
    watch.observe(1)
    watch.check(1)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_bad_element_is_found(value: float, dtype: torch.dtype) -> None:
    for index in range(5):
        parameter = nn.Parameter(torch.zeros(5, dtype=dtype))
        parameter.grad = torch.arange(5.0, dtype=dtype)
        parameter.grad[index] = value
        watch = GradientWatch({"norm": parameter})
        watch.observe(4)
        with pytest.raises(NonFiniteGradient, match="^NaN or Inf in the gradient of norm at inner step 4$"):
            watch.check(4)


def test_the_first_bad_step_is_what_is_told() -> None:
    """After it every gradient is bad, in the same step's clipping already, and says nothing any more."""
    named = parameters()
    watch = GradientWatch(named)
    for step in range(11, 21):
        if step == 13:
            named["norm"].grad[2] = NAN
        if step > 13:
            for parameter in named.values():
                parameter.grad = torch.full_like(parameter, NAN)
        watch.observe(step)
    with pytest.raises(NonFiniteGradient, match="the gradient of norm at inner step 13, seen at step 20$"):
        watch.check(20)


def test_of_many_the_nearest_to_the_loss_are_named() -> None:
    named = {f"layers.{number}.weight": nn.Parameter(torch.ones(2)) for number in range(6)}
    for parameter in named.values():
        parameter.grad = torch.tensor([1.0, INF])
    named["layers.5.weight"].grad = torch.ones(2)
    watch = GradientWatch(named)
    watch.observe(1)
    with pytest.raises(NonFiniteGradient, match=r"layers.4.weight, layers.3.weight, layers.2.weight \(and 2 more\) at"):
        watch.check(1)


def test_observing_reads_nothing_on_the_host() -> None:
    """Tensors on the meta device have no values: whoever reads one fails, as `check` does."""
    watch = GradientWatch(parameters("meta"))
    for step in range(1, 4):
        watch.observe(step)
    with pytest.raises((NotImplementedError, RuntimeError)):
        watch.check(3)
