"""A pseudogradient is computed in one fp32 vector without other memory, and again after a round has overwritten it."""

import pytest
import torch

from muloco import sharding
from muloco.outer.loop.fragment import FragmentState
from muloco.outer.loop.outgoing import Outgoing

from ..toy import sgd
from ..words import Ledger

SHAPES = {"a": (40, 30), "scalar": (), "none": (0, 3), "b": (700,)}
ELEMENTS = 1901


def fragment(dtype: torch.dtype = torch.float32) -> FragmentState:
    torch.manual_seed(3)
    state = FragmentState({name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}, sgd(0.7))
    for tensor in state.parameters.values():
        tensor.sub_(torch.randn(tensor.shape) * 0.01)
    return state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_difference_in_fp32_formed_in_place(dtype: torch.dtype) -> None:
    state, ledger = fragment(dtype), Ledger()
    with ledger.counting():
        flat = state.outgoing()
    assert flat.dtype == torch.float32 and ledger.peak == 4 * ELEMENTS
    for name, part in state.views(flat).items():
        assert torch.equal(part, state.anchor[name].float() - state.parameters[name].float()), name


def test_a_copy_of_the_anchor_elsewhere_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An anchor in host memory is copied into the vector itself; here by taking its way for granted."""
    state, ledger = fragment(), Ledger()
    expected = state.outgoing()
    monkeypatch.setattr(torch, "promote_types", lambda one, other: None)
    with ledger.counting():
        flat = state.outgoing()
    assert torch.equal(flat, expected) and ledger.peak == 4 * ELEMENTS


def test_the_product_without_a_vector_is_that_with_it() -> None:
    state = fragment()
    own, other = state.outgoing(), torch.randn(ELEMENTS)
    assert state.product(None, other) == pytest.approx(float(own.double().dot(other.double())), rel=1e-4, abs=1e-4)
    assert state.product(own, other) == pytest.approx(state.product(None, other), rel=1e-5)


def test_what_a_round_may_overwrite_is_formed_anew_for_the_next_attempt() -> None:
    state = fragment()
    own = Outgoing(state, inner_steps_go_on=False)
    first = own.vector()
    expected, square = first.clone(), own.square
    first.fill_(float("nan"))
    assert own.overwrite and own.finite and torch.equal(own.vector(), expected)
    assert square == pytest.approx(float(expected.double().square().sum()), rel=1e-5)


def test_beside_inner_steps_it_stays_what_it_was() -> None:
    state = fragment()
    own = Outgoing(state, inner_steps_go_on=True)
    before = own.vector().clone()
    state.parameters["a"].fill_(float("inf"))
    assert not own.overwrite and own.finite and own.not_finite() == []
    assert torch.equal(own.vector(), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_it_knows_where_it_is_not_finite(value: float) -> None:
    state = fragment()
    state.parameters["b"][5] = value
    own = Outgoing(state, inner_steps_go_on=False)
    own.vector()
    assert not own.finite and own.not_finite() == ["b"]


def test_the_mean_crosses_to_an_anchor_in_host_memory_at_once_and_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole vector is copied once, and the step reads it only after the copy is complete."""
    state, mean, events = fragment(), torch.randn(ELEMENTS), []
    expected = {name: tensor.clone() for name, tensor in state.anchor.items()}
    for name, part in state.views(mean).items():
        expected[name].sub_(part * (0.7 * 1.9))  # momentum 0.9 from zero buffers

    class Stream:
        def synchronize(self) -> None:
            events.append("synchronize")
            host.copy_(mean)

    def to_host(vector: torch.Tensor) -> torch.Tensor:
        events.append(vector.device.type)
        return host

    host = torch.full((ELEMENTS,), float("nan"))
    monkeypatch.setattr(sharding, "to_host", to_host)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: Stream())
    state.step(torch.empty(ELEMENTS, device="meta"))
    assert events == ["meta", "synchronize"]
    for name, value in expected.items():
        torch.testing.assert_close(state.anchor[name], value)
