"""Error feedback against its formula, round after round."""

import math

import pytest
import torch

from muloco.outer.codecs import build_codec, error_feedback

CODECS = [
    {"kind": "none"},
    {"kind": "linear", "bits": 2},
    {"kind": "statistical", "bits": 2, "granularity": "row"},
    {"kind": "lloyd_max", "bits": 3},
    {"kind": "topk", "fraction": 0.1},
]
all_codecs = pytest.mark.parametrize("chosen", CODECS, ids=lambda chosen: chosen["kind"])


def pieces(rounds: int, shape=(16, 40), seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(rounds)]


@all_codecs
@pytest.mark.parametrize(("decay", "alpha"), [(0.9, 1.0), (1.0, 1.0), (0.5, 0.25), (0.0, 1.0), (0.95, 0.0)])
def test_is_the_formula_over_many_rounds(chosen: dict, decay: float, alpha: float) -> None:
    codec, residual = build_codec(**chosen), None
    expected = [0.0] * 640
    for piece in pieces(6):
        error = [decay * e + d for e, d in zip(expected, piece.flatten().tolist(), strict=True)]
        payload, residual = error_feedback.encode(codec, piece, residual, decay=decay, alpha=alpha)
        sent = codec.decode(payload, piece.shape)
        by_hand = codec.decode(codec.encode(torch.tensor(error).view_as(piece)), piece.shape)
        torch.testing.assert_close(sent, by_hand, rtol=1e-3, atol=1e-4)
        expected = [e - alpha * s for e, s in zip(error, sent.flatten().tolist(), strict=True)]
        torch.testing.assert_close(residual.flatten(), torch.tensor(expected), rtol=1e-4, atol=1e-5)
        expected = residual.flatten().tolist()  # rounding must not add up over the rounds


@all_codecs
def test_nothing_is_lost_without_decay(chosen: dict) -> None:
    codec, residual = build_codec(**chosen), None
    sent = torch.zeros(16, 40, dtype=torch.float64)
    given = pieces(30)
    for piece in given:
        payload, residual = error_feedback.encode(codec, piece, residual, decay=1.0)
        sent += codec.decode(payload, piece.shape)
    torch.testing.assert_close(sent + residual, torch.stack(given).double().sum(0), rtol=0, atol=1e-4)
    assert chosen["kind"] != "none" or (residual == 0).all()


def test_the_defaults_are_the_papers() -> None:
    codec = build_codec("topk", fraction=0.1)
    piece, residual = pieces(2)
    for got, expected in zip(
        error_feedback.encode(codec, piece, residual),
        error_feedback.encode(codec, piece, residual, decay=0.9, alpha=1.0),
        strict=True,
    ):
        assert torch.equal(got, expected)


def test_what_stays_behind_is_sent_later() -> None:
    """Top-k of one element of ten, equal pieces: with decay 1 every element gets its turn."""
    codec, residual = build_codec("topk", fraction=0.1), None
    piece, sent = torch.arange(1.0, 11.0), torch.zeros(10)
    for _ in range(200):
        payload, residual = error_feedback.encode(codec, piece, residual, decay=1.0)
        sent += codec.decode(payload, piece.shape)
    torch.testing.assert_close(sent / 200, piece, rtol=0.5, atol=0.1)
    assert (sent > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_is_pure_and_keeps_fp32(dtype: torch.dtype) -> None:
    codec = build_codec("linear", bits=2)
    piece, residual = (p.to(d) for p, d in zip(pieces(2), (dtype, torch.float32), strict=True))
    before = piece.clone(), residual.clone()
    _, new = error_feedback.encode(codec, piece.t(), residual.t())
    assert torch.equal(piece, before[0]) and torch.equal(residual, before[1])
    assert new.dtype == torch.float32 and new.shape == piece.t().shape and new.isfinite().all()
    assert new.data_ptr() != residual.data_ptr()


@all_codecs
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_piece_that_is_not_finite_leaves_the_residual_alone(chosen: dict, value: float) -> None:
    codec = build_codec(**chosen)
    piece, residual, later = pieces(3)
    piece[3, 5] = value
    payload, new = error_feedback.encode(codec, piece, residual)
    assert not codec.decode(payload, piece.shape).isfinite().all()
    assert torch.equal(new, residual)
    payload, new = error_feedback.encode(codec, later, new)
    assert codec.decode(payload, later.shape).isfinite().all() and new.isfinite().all()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 3, 4)], ids=str)
def test_any_shape(shape) -> None:
    codec = build_codec("lloyd_max", bits=2, granularity="row")
    payload, residual = error_feedback.encode(codec, torch.ones(shape), None)
    assert (
        payload.shape == (codec.payload_bytes(shape),) and residual.shape == shape and residual.dtype == torch.float32
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": -0.1}, "decay of error feedback must be from 0 to 1; got -0.1"),
        ({"decay": math.nan}, "decay"),
        ({"alpha": 1.5}, "alpha of error feedback must be from 0 to 1; got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        error_feedback.encode(build_codec("none"), torch.ones(3), None, **settings)


def test_a_residual_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"residual has shape \(4,\), the piece \(3,\)"):
        error_feedback.encode(build_codec("none"), torch.ones(3), torch.ones(4))
