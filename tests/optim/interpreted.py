"""Run with TRITON_INTERPRET=1 by test_kernels.py: the kernels beside PyTorch's operators, and the bytes that they move.

Triton's interpreter rounds the product in an `fma`, cuts float32 off to bfloat16, and misreads subnormal bfloat16. So
the products of the momentum are exact here, what is rounded to bfloat16 may be off by one place, and none is subnormal.
"""

import itertools

import pytest
import torch
from triton.runtime import interpreter

from muloco.optim import kernels, passes

SIZE = (43, 50)
"""A block and a bit."""
ELEMENTS = 43 * 50


@pytest.fixture
def traffic(monkeypatch):
    """Bytes loaded and stored, and programs of the last launches."""
    found = {"loaded": 0, "stored": 0, "launches": 0}
    builder, grid = interpreter.interpreter_builder, interpreter.GridExecutor.__call__
    load, store = builder.create_masked_load, builder.create_masked_store

    def loading(ptrs, mask, *others):
        found["loaded"] += int(mask.data.sum()) * ptrs.get_element_ty().primitive_bitwidth // 8
        return load(ptrs, mask, *others)

    def storing(ptrs, value, mask, *others):
        found["stored"] += int(mask.data.sum()) * ptrs.get_element_ty().primitive_bitwidth // 8
        return store(ptrs, value, mask, *others)

    def launching(self, *arguments, **options):
        found["launches"] += 1
        return grid(self, *arguments, **options)

    monkeypatch.setattr(builder, "create_masked_load", loading)
    monkeypatch.setattr(builder, "create_masked_store", storing)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launching)
    return found


def numbers(count, dtype=torch.float32, seed=0, exact=False):
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(count, *SIZE, generator=generator)
    return list((found.mul(64).round().div(64) if exact else found).to(dtype))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
        (torch.float16, torch.float16),
        (torch.float32, None),
    ],
    ids=str,
)
def test_advance(traffic, dtype, given, count, nesterov):
    # products with 3/4 are exact, those with the weights of the mean are not
    gradients, momenta = numbers(count, dtype, 0, exact=True), numbers(count, dtype, 1, exact=True)
    expected = [one.clone() for one in momenta]
    parts, wanted = (None if given is None else torch.empty(count, *SIZE, dtype=given) for _ in range(2))
    kernels.advance(gradients, momenta, parts, 0.75, nesterov)
    passes._advance_in_passes(gradients, expected, wanted, 0.75, nesterov)
    for ours, theirs in zip(momenta, expected, strict=True):
        assert torch.equal(ours, theirs)
    if given is not None:
        allowed = 0 if not nesterov and given != torch.bfloat16 else 2 * torch.finfo(given).eps
        torch.testing.assert_close(parts, wanted, rtol=allowed, atol=allowed)
    elements = count * ELEMENTS
    assert traffic["loaded"] == 2 * elements * dtype.itemsize
    assert traffic["stored"] == elements * (dtype.itemsize + (given.itemsize if given else 0))
    assert traffic["launches"] == 1


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("rate", [None, torch.tensor(0.03), torch.tensor([0.03], dtype=torch.float64)], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_descend(traffic, count, rate, cautious):
    params, directions = numbers(count), numbers(count, torch.bfloat16, 1)
    params[0][0, 0], directions[0][0, 1] = 0, 0
    expected = [one.clone() for one in params]
    single = None if rate is None else rate.float()
    kernels.descend(params, directions, rate, 0.1, cautious)
    passes._descend_in_passes(expected, directions, single, 0.1, cautious)
    for ours, theirs in zip(params, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert traffic["loaded"] == count * (ELEMENTS * 6 + (0 if rate is None else 2 * rate.nbytes))  # in both blocks
    assert traffic["stored"] == count * ELEMENTS * 4
    assert traffic["launches"] == 1


@pytest.mark.parametrize("room", [4, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_normalize(monkeypatch, traffic, dtype, room):
    """Matrices of more pieces than a program scales, and of more than it loads together."""
    monkeypatch.setattr(kernels, "ROOM", room)
    shape = (5, 20, 4000)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    info = torch.finfo(dtype)
    smallest = 2.0**-100 if dtype == torch.bfloat16 else info.tiny
    scales = [1.0, 2.0**-8, 0.0, info.max / 8, smallest]  # entries are 5 at most
    x = (x * torch.tensor(scales).view(-1, 1, 1)).to(dtype)
    exact = x.double()
    expected = exact / exact.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-300)
    kernels.normalize_(x)
    torch.testing.assert_close(x.double(), expected, rtol=1.1 * info.eps, atol=info.tiny)
    elements = x.numel()
    pieces = 5 * 10
    assert traffic["launches"] == 2
    assert traffic["stored"] == elements * dtype.itemsize + 8 * pieces
    assert traffic["loaded"] == 2 * elements * dtype.itemsize + 12 * pieces * 2  # two programs scale each matrix


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_becomes_nan(bad):
    x = torch.ones(2, 3, 4)
    x[0, 1, 2] = bad
    kernels.normalize_(x)
    assert x[0].isnan().all()
    torch.testing.assert_close(x[1], torch.full((3, 4), 12**-0.5))


def test_the_smallest_and_the_largest_numbers():
    for dtype, name in itertools.product((torch.float32, torch.bfloat16, torch.float16), ("max", "tiny", "least")):
        info = torch.finfo(dtype)
        if dtype == torch.bfloat16 and name == "least":
            continue
        number = info.tiny * info.eps if name == "least" else getattr(info, name)
        x = torch.tensor([[[1.0, 0, 0], [0, -1, 0]]], dtype=torch.float64).mul(number).to(dtype)
        kernels.normalize_(x)
        torch.testing.assert_close(x[0, 0, 0].float(), torch.tensor(0.5**0.5), rtol=info.eps, atol=0)


def test_many_matrices_are_one_launch_for_each_64(traffic):
    params = [torch.full((2, 3), float(place)) for place in range(130)]
    directions = list(torch.ones(130, 2, 3))
    kernels.descend(params, directions, None, 0.0, False)
    assert all(torch.equal(one, torch.full((2, 3), place - 1.0)) for place, one in enumerate(params))
    assert traffic["launches"] == 3
