"""Activation checkpointing: less is kept, more is computed again, and gradients come out to the same bits."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import muloco.model
from muloco.training.titan_config import ACTIVATION_CHECKPOINTS


class MatrixProducts(TorchDispatchMode):
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.mm.default
        return func(*args, **(kwargs or {}))


def backward(mode: str) -> tuple[dict[str, torch.Tensor], int, int]:
    """Gradients by name, elements that autograd kept from the forward pass, matrix products of the backward pass."""
    torch.manual_seed(0)
    model = muloco.model.build("tiny", "cpu", seq_len=16)
    checkpointing = ACTIVATION_CHECKPOINTS[mode]
    if checkpointing is not None:
        checkpointing.build().apply(model)
    tokens = torch.randint(0, 2048, (2, 16))
    positions = torch.arange(16).expand(2, -1) % 11
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = model(tokens, positions, model.get_attention_masks(positions)).square().mean()
    with MatrixProducts() as products:
        loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return gradients, sum(kept), products.count


def test_gradients_and_names_stay_the_same() -> None:
    plain, plain_kept, plain_products = backward("none")
    products = {}
    for mode in ("selective", "full"):
        gradients, kept, products[mode] = backward(mode)
        assert list(gradients) == list(plain) and len(plain) == 29
        assert all(torch.equal(gradients[name], plain[name]) for name in plain)
        assert kept < plain_kept / 2
    layers, matrices = 2, 7
    assert products["full"] == plain_products + layers * matrices
    assert products["selective"] == plain_products + layers * (matrices // 2)


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_no_random_state_is_read(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model draws no random numbers, and while a CUDA graph is recorded not every torch can read the state."""

    def read() -> None:
        raise AssertionError("the random state was read")

    torch.manual_seed(0)
    monkeypatch.setattr(torch, "get_rng_state", read)
    assert len(backward(mode)[0]) == 29
