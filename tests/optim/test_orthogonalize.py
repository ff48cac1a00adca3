"""Oracles: the scalar polynomial on singular values from an SVD in double precision, and U V^T itself."""

import importlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from muloco.optim import PRESETS, orthogonalize
from muloco.optim.orthogonalize import coefficients, orthogonal_direction

from ..coefficients import MULOCO, QUINTIC

# As printed in the paper, before its safety factor: 1.01 on all but the last.
POLAR_EXPRESS_PRINTED = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]
POLAR_EXPRESS = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in POLAR_EXPRESS_PRINTED[:-1]]
POLAR_EXPRESS += POLAR_EXPRESS_PRINTED[-1:]
SHAPES = [(12, 12), (20, 7), (7, 20), (1, 9), (9, 1), (3, 8, 5), (2, 3, 5, 8)]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gaussian(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def oracle(matrix, triples):
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    for a, b, c in triples:
        s = a * s + b * s**3 + c * s**5
    return (u * s.unsqueeze(-2)) @ vh


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("preset", "triples"), [("muloco", MULOCO), ("quintic", QUINTIC), ("polar_express", POLAR_EXPRESS)]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)], ids=str)
def test_is_the_polynomial_of_the_singular_values(shape, preset, triples, dtype, tolerance):
    matrix = gaussian(*shape)
    result = orthogonalize(matrix, preset, dtype=dtype)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, oracle(matrix, triples), rtol=0, atol=tolerance)


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 6, 9])
def test_steps_take_the_first_triples_and_repeat_the_last(steps):
    matrix = gaussian(6, 10)
    triples = (MULOCO + [MULOCO[-1]] * 4)[:steps]
    torch.testing.assert_close(
        orthogonalize(matrix, steps=steps, dtype=torch.float64), oracle(matrix, triples), rtol=0, atol=1e-10
    )


def test_the_default_preset_is_the_papers():
    assert list(PRESETS["muloco"]) == MULOCO
    matrix = gaussian(6, 10)
    assert torch.equal(orthogonalize(matrix), orthogonalize(matrix, "muloco", 5))


@pytest.mark.parametrize(
    ("steps", "lowest", "highest"), [(5, 0.84, 1.124), (6, 0.994, 1.0012), (None, 1, 1), (9, 1, 1)]
)
def test_polar_express_brings_what_is_above_a_thousandth_to_one(steps, lowest, highest):
    """A diagonal matrix, so that its singular values after normalization are known; 9 steps repeat the last triple."""
    values = torch.logspace(-3, 0, 40, dtype=torch.float64)
    inside = values / values.norm() >= 1e-3
    result = orthogonalize(values.diag(), "polar_express", steps, dtype=torch.float64).diagonal()[inside]
    assert inside.sum() > 30
    assert lowest - 1e-9 <= result.min() and result.max() <= highest + 1e-9


@pytest.mark.parametrize(("preset", "tolerance"), [("muloco", 0.032), ("quintic", 0.32), ("polar_express", 1e-12)])
@pytest.mark.parametrize("shape", [(16, 16), (32, 12), (12, 32)], ids=str)
def test_is_near_the_closest_orthogonal_matrix(preset, tolerance, shape):
    u, _, vh = torch.linalg.svd(gaussian(*shape), full_matrices=False)
    spectrum = torch.linspace(0.05, 1, min(shape), dtype=torch.float64)
    result = orthogonalize((u * spectrum) @ vh, preset, dtype=torch.float64)
    assert torch.linalg.matrix_norm(result - u @ vh, ord=2) < tolerance


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(64, 64), (128, 48), (4, 48, 128)], ids=str)
def test_bfloat16_products_stay_close(preset, shape):
    u, _, vh = torch.linalg.svd(gaussian(*shape), full_matrices=False)
    matrix = (u * torch.linspace(0.1, 1, u.shape[-1], dtype=torch.float64).unsqueeze(-2)) @ vh
    exact = orthogonalize(matrix, preset, dtype=torch.float64)
    rounded = orthogonalize(matrix.float(), preset, dtype=torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.04 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_keeps_shape_and_dtype_and_leaves_its_input_alone(dtype):
    matrix = gaussian(2, 5, 4, dtype=dtype)
    before = matrix.clone()
    result = orthogonalize(matrix, dtype=torch.float32)
    assert result.shape == matrix.shape and result.dtype == dtype
    assert torch.equal(matrix, before)
    torch.testing.assert_close(result.double(), oracle(before, MULOCO), rtol=0, atol=1e-2)


def test_takes_strided_input():
    wide = gaussian(4, 9, 6)
    view = wide.mT[:, ::2]
    assert not view.is_contiguous()
    torch.testing.assert_close(
        orthogonalize(view, dtype=torch.float64), orthogonalize(view.contiguous(), dtype=torch.float64)
    )


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (3, 64, 16), (24, 16), (16, 16)], ids=str)
def test_the_gram_matrix_is_on_the_smaller_side(shape):
    """Two steps at once where that is cheaper: 2 products with X instead of 4, and 5 of small matrices instead of 2."""
    with FlopCounterMode(display=False) as counter:
        orthogonalize(gaussian(*shape), steps=5)
    batch = shape[0] if len(shape) == 3 else 1
    large = max(shape[-2:])
    with_x, small = (6, 11) if large == 64 else (10, 5)
    assert counter.get_total_flops() == batch * 2 * (with_x * 16 * 16 * large + small * 16**3)


SPECTRA = {
    "flat": torch.linspace(0.1, 1, 96),
    "to a hundredth": torch.logspace(-2, 0, 96),
    "to a thousandth": torch.logspace(-3, 0, 96),
    "power law": 1 / torch.arange(1, 97),
    "rank one and noise": torch.tensor([1.0] + 95 * [5e-3]),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(96, 288), (288, 96), (96, 96)], ids=str)
def test_bfloat16_is_stable_whatever_the_spectrum(shape, spectrum):
    """Where a Gram matrix is updated, not computed anew, its noise below zero can blow up."""
    u, _, vh = torch.linalg.svd(gaussian(*shape), full_matrices=False)
    matrix = (u * SPECTRA[spectrum].double()) @ vh
    values = torch.linalg.svdvals(orthogonalize(matrix, dtype=torch.bfloat16))
    expected = torch.linalg.svdvals(oracle(matrix, MULOCO))
    assert values.max() < expected.max() + 0.03
    assert (values - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.3, -2.0])
@pytest.mark.parametrize("steps", [1, 4, 5])
@pytest.mark.parametrize("shape", [(7, 20), (6, 6)], ids=str)
def test_the_direction_is_scaled(shape, steps, scale):
    matrix = gaussian(*shape)
    result = orthogonal_direction(matrix, coefficients(steps=steps), scale, dtype=torch.float32)
    assert result.dtype == torch.float32
    expected = scale * oracle(matrix, coefficients(steps=steps))
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-5 * abs(scale))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_where_values_cannot_be_read_the_numbers_are_the_same(monkeypatch, dtype, kind):
    """As on a GPU, for which reading would wait."""
    matrix = gaussian(3, 12, 5, dtype=dtype)
    matrix[1] = 0
    expected = orthogonalize(matrix, dtype=kind)
    monkeypatch.setattr(importlib.import_module("muloco.optim.orthogonalize"), "_can_see", lambda tensor: False)
    assert torch.equal(orthogonalize(matrix, dtype=kind), expected)


def test_records_no_gradient():
    assert not orthogonalize(gaussian(3, 4).requires_grad_()).requires_grad


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (0, 4), (4, 0), (0, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_zeros_stay_zeros(shape, dtype):
    assert torch.equal(orthogonalize(torch.zeros(shape), dtype=dtype), torch.zeros(shape))


def test_a_zero_matrix_does_not_touch_the_others_of_its_batch():
    batch = gaussian(3, 5, 4)
    batch[1] = 0
    result = orthogonalize(batch, dtype=torch.float64)
    assert result[1].abs().max() == 0
    torch.testing.assert_close(result[::2], oracle(batch[::2], MULOCO), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(10, 6), (6, 10)], ids=str)
def test_rank_deficient_matrices_keep_their_null_space(shape):
    matrix = gaussian(shape[0], 2) @ gaussian(2, shape[1], seed=1)
    values = torch.linalg.svdvals(orthogonalize(matrix, dtype=torch.float64))
    assert (values[:2] - 1).abs().max() < 0.032
    assert values[2:].max() < 1e-8


@pytest.mark.parametrize("exponent", [-120, -100, -40, 40, 100, 124])
def test_scale_does_not_matter_in_single_precision(exponent):
    matrix = gaussian(6, 9, dtype=torch.float32)
    expected = orthogonalize(matrix, dtype=torch.float32)
    assert torch.equal(orthogonalize(matrix * 2.0**exponent, dtype=torch.float32), expected)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_scale_does_not_matter_in_double_precision(scale):
    matrix = gaussian(6, 9)
    torch.testing.assert_close(
        orthogonalize(matrix * scale, dtype=torch.float32), orthogonalize(matrix, dtype=torch.float32)
    )


def test_each_matrix_of_a_batch_has_its_own_scale():
    matrix = gaussian(6, 9, dtype=torch.float32)
    batch = torch.stack([matrix * 1e-30, matrix, matrix * 1e30])
    torch.testing.assert_close(
        orthogonalize(batch, dtype=torch.float32), orthogonalize(matrix, dtype=torch.float32).expand(3, -1, -1)
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows(bad):
    batch = gaussian(2, 4, 4, dtype=torch.float32)
    batch[0, 1, 2] = bad
    result = orthogonalize(batch)
    assert result[0].isnan().all()
    assert result[1].isfinite().all()


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({}, torch.float32),
        ({"avx2": True, "avx512_f": True}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
    ],
    ids=str,
)
def test_computes_in_bfloat16_only_where_that_is_fast(monkeypatch, features, expected):
    module = importlib.import_module("muloco.optim.orthogonalize")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    module._fast_dtype.cache_clear()
    try:
        matrix = gaussian(8, 8, dtype=torch.float32)
        assert torch.equal(orthogonalize(matrix), orthogonalize(matrix, dtype=expected))
    finally:
        module._fast_dtype.cache_clear()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: orthogonalize(torch.ones(3)), r"at least 2 dimensions.*\(3,\)"),
        (lambda: orthogonalize(torch.tensor(1.0)), r"at least 2 dimensions.*\(\)"),
        (lambda: orthogonalize(torch.ones(3, 3, dtype=torch.int64)), "real floating dtypes.*int64"),
        (lambda: orthogonalize(torch.ones(3, 3, dtype=torch.complex64)), "real floating dtypes.*complex64"),
        (lambda: orthogonalize(torch.ones(3, 3), dtype=torch.int32), "real floating dtypes.*int32"),
        (lambda: orthogonalize(torch.ones(3, 3), "quintc"), "'quintc': did you mean 'quintic'.*'muloco', 'quintic'"),
        (lambda: orthogonalize(torch.ones(3, 3), "zzz"), "'zzz': allowed are 'muloco', 'quintic'"),
        (lambda: orthogonalize(torch.ones(3, 3), steps=0), "positive integer or None, not 0"),
        (lambda: orthogonalize(torch.ones(3, 3), steps=2.5), "positive integer or None, not 2.5"),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
