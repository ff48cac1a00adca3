"""Oracles: the scalar polynomial on singular values from an SVD in double precision, and U V^T itself."""

import importlib
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from muloco.optim import PRESETS, orthogonalize
from muloco.optim.newton_schulz import orthogonal_direction
from muloco.optim.presets import coefficients

from ..coefficients import MULOCO, QUINTIC

# PAPER 11: on X / (1.02 |X|), to the digits that are printed there
POLAR_EXPRESS_PRINTED = [
    (8.1566, -22.4833, 15.8788),
    (4.0429, -2.8089, 0.5000),
    (3.8917, -2.7725, 0.5061),
    (3.2858, -2.3681, 0.4645),
    (2.3465, -1.7098, 0.4232),
]
TRIPLES = {"muloco": MULOCO, "quintic": QUINTIC, "polar_express": list(PRESETS["polar_express"])}
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
@pytest.mark.parametrize(("preset", "triples"), TRIPLES.items(), ids=list(TRIPLES))
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


def test_polar_express_is_the_papers_on_a_norm_of_1_02():
    values = torch.logspace(-3, 0, 60, dtype=torch.float64)
    expected = values / values.norm() / 1.02
    for a, b, c in POLAR_EXPRESS_PRINTED:
        expected = a * expected + b * expected**3 + c * expected**5
    result = orthogonalize(values.diag(), "polar_express", dtype=torch.float64).diagonal()
    torch.testing.assert_close(result, expected, rtol=0, atol=4e-3)


BANDS = {  # as PRESETS says: from 0.009 of the norm on, from 0.001 on, and the largest value of any step on [0, 1]
    "muloco": ((0.977, 1.032), (0.474, 1.146), 1.274),
    "quintic": ((0.681, 1.135), (0.470, 1.203), 1.203),
    "polar_express": ((0.858, 1.142), (0.846, 1.142), 1.992),
}


def composed(preset, steps, values):
    for a, b, c in (TRIPLES[preset] + TRIPLES[preset][-1:] * steps)[:steps]:
        values = a * values + b * values**3 + c * values**5
    return values


def bounds(preset, steps, excess=0.0):
    """An upper bound of each step in double precision: the largest value on all that the one before may give."""
    found = [1 + excess]
    for a, b, c in (TRIPLES[preset] + TRIPLES[preset][-1:] * steps)[:steps]:
        values = torch.linspace(0, found[-1], 100_001, dtype=torch.float64)
        found.append((a * values + b * values**3 + c * values**5).abs().max().item() * (1 + excess))
    return found[1:]


@pytest.mark.parametrize("preset", PRESETS)
def test_singular_values_end_where_the_table_says(preset):
    upper, lower, most = BANDS[preset]
    values = torch.logspace(-3, 0, 100_001, dtype=torch.float64)
    for (lowest, highest), start in ((upper, 0.009), (lower, 0.001)):
        ends = composed(preset, 5, values[values >= start * (1 - 1e-9)])
        assert lowest <= ends.min() < lowest + 2e-3 and highest - 2e-3 < ends.max() <= highest
    assert most - 2e-3 < max(bounds(preset, 10)) <= most


@pytest.mark.parametrize(("preset", "excess"), [("muloco", 0.02), ("quintic", 0.04), ("polar_express", 0.02)])
def test_a_step_may_exceed_its_bound_a_little_every_time(preset, excess):
    exact, exceeded = bounds(preset, 15), bounds(preset, 15, excess)
    assert all(more <= 1.1 * most for more, most in zip(exceeded, exact, strict=True))
    assert max(bounds(preset, 15, 0.06)) > 1e3, "more than a little"


@pytest.mark.parametrize(("preset", "tolerance"), [("muloco", 0.032), ("quintic", 0.32), ("polar_express", 0.142)])
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
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (3, 64, 16), (24, 16), (16, 16)], ids=str)
def test_the_gram_matrix_is_on_the_smaller_side(shape, dtype):
    """Two steps at once where that is cheaper: 2 products with X instead of 4, and 5 of small matrices instead of 2.
    Not in 16 bits, where the second step would be far off."""
    with FlopCounterMode(display=False) as counter:
        orthogonalize(gaussian(*shape), steps=5, dtype=dtype)
    batch = shape[0] if len(shape) == 3 else 1
    large = max(shape[-2:])
    with_x, small = (6, 11) if large == 64 and dtype == torch.float32 else (10, 5)
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


def basis(size, count, kind, seed):
    """Orthonormal columns. The first of "even" is constant: rounding errors of equal entries add up."""
    columns = gaussian(size, count, seed=seed)
    if kind == "even":
        columns[:, 0] = 1
    return torch.linalg.qr(columns).Q if kind != "axes" else torch.eye(size, count, dtype=torch.float64)


def hard_spectra(count):
    """`[spectra, count]`: condition 1e6, low rank, one direction of .05 to 1 of the norm beside others."""
    spectra = [torch.logspace(0, -6, count)]
    for rank in {1, 2, min(3, count), (count + 1) // 2, count}:
        spectra.append((torch.arange(count) < rank).double())
    for dominant in torch.linspace(0.05, 1, 39).tolist():
        for rest in (torch.linspace(0.2, 1, count - 1), torch.ones(count - 1)):
            rest = rest / rest.norm() * (1 - dominant**2) ** 0.5 if count > 1 else rest
            spectra.append(torch.cat([torch.tensor([dominant]), rest]))
    return torch.stack([spectrum.double() for spectrum in spectra])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["random", "even", "axes"])
@pytest.mark.parametrize("shape", [(32, 32), (24, 64), (64, 24), (2, 100), (100, 2), (1, 50), (50, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_spectrum_makes_it_overflow(preset, shape, kind, dtype):
    """What comes out stays within the bound of its number of steps, and near the polynomial in the sense of the error
    that the dtype may make; noise in place of a zero singular value may grow, but to no more than the bound."""
    count = min(shape)
    spectra = hard_spectra(count)
    u, v = basis(shape[0], count, kind, 0), basis(shape[1], count, kind, 1)
    matrices = (u * spectra[:, None, :]) @ v.mT
    start = spectra / spectra.norm(dim=-1, keepdim=True)
    for steps, most in enumerate(bounds(preset, 10), 1):
        if steps in (7, 9):
            continue  # enough of them
        result = orthogonalize(matrices, preset, steps, dtype=dtype)
        assert result.isfinite().all()
        slack = 1.02 if dtype != torch.float32 else 1.0001
        assert torch.linalg.matrix_norm(result, ord=2).max() <= slack * most
        if dtype == torch.float32 and steps <= 5:
            kept = start.min(-1).values > 0.01  # noise is not to be compared
            expected = (u * composed(preset, steps, start[kept])[:, None, :]) @ v.mT
            torch.testing.assert_close(result[kept], expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(24, 64), (2, 100), (64, 4)], ids=str)
def test_random_spectra_do_not_make_it_overflow(preset, shape):
    """Of all steepnesses, beside a dominant direction: where two steps on one Gram matrix in bfloat16 went astray."""
    count, many = min(shape), 300
    u = torch.linalg.qr(gaussian(many, shape[0], count)).Q
    v = torch.linalg.qr(gaussian(many, shape[1], count, seed=1)).Q
    generator = torch.Generator().manual_seed(2)
    uniform = torch.rand(many, count + 1, dtype=torch.float64, generator=generator)
    spectra = uniform[:, 1:] ** (1 + 3 * uniform[:, :1])
    spectra[:, 0] = spectra[:, 1:].norm(dim=-1) * torch.linspace(0.05, 8, many)
    matrices = (u * spectra[:, None, :]) @ v.mT
    for steps, most in enumerate(bounds(preset, 8), 1):
        result = orthogonalize(matrices, preset, steps, dtype=torch.bfloat16)
        assert torch.linalg.matrix_norm(result, ord=2).max() <= 1.02 * most


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
    monkeypatch.setattr("muloco.optim.passes.SEEN", frozenset())
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


def in_range(dtype):
    """Powers of two at which the matrix of the next test is neither rounded nor infinite, and the ends of the dtype."""
    info = torch.finfo(dtype)
    low, high = math.frexp(info.tiny)[1] + 8, math.frexp(info.max)[1] - 4
    return [low, low // 2, 0, high // 2, high]


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seen", [True, False])
def test_scale_does_not_matter(monkeypatch, seen, dtype, products):
    """Powers of two change no bit, alone or beside other scales, whether the host can read values or not."""
    if not seen:
        monkeypatch.setattr("muloco.optim.passes.SEEN", frozenset())
    matrix = gaussian(6, 9).clamp(-4, 4).mul(16).round().div(16)  # few bits
    expected = orthogonalize(matrix.to(dtype), dtype=products)
    scaled = [(matrix * 2.0**exponent).to(dtype) for exponent in in_range(dtype)]
    for one in scaled:
        assert torch.equal(orthogonalize(one, dtype=products), expected)
    assert torch.equal(orthogonalize(torch.stack(scaled), dtype=products), expected.expand(len(scaled), -1, -1))


@pytest.mark.parametrize("products", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seen", [True, False])
def test_the_largest_and_the_smallest_numbers_there_are(monkeypatch, seen, dtype, products):
    if not seen:
        monkeypatch.setattr("muloco.optim.passes.SEEN", frozenset())
    signs = torch.tensor([[1.0, 0, 0], [0, -1, 0]], dtype=torch.float64)
    expected = oracle(signs, MULOCO)
    info = torch.finfo(dtype)
    for number in (info.max, info.tiny, info.tiny * info.eps):
        result = orthogonalize((signs * number).to(dtype), dtype=products)
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_scale_does_not_matter_in_double_precision(scale):
    matrix = gaussian(6, 9)
    torch.testing.assert_close(
        orthogonalize(matrix * scale, dtype=torch.float32), orthogonalize(matrix, dtype=torch.float32)
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
    module = importlib.import_module("muloco.optim.newton_schulz")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
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
