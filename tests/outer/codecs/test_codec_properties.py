"""What holds for every codec and any input: sizes, bits, what is not finite, settings."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from muloco.outer.codecs import (
    KINDS,
    build_codec,
    codec_class,
    codec_settings,
    default_codec,
    error_feedback,
    packing,
    table,
)

from .codec_examples import SETTINGS, SHAPES, all_settings, gaussian, round_trip, student_t3
from .test_packing import repeatable


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors are small here, and where other work fills the machine, threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@all_settings
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_size_and_shape(chosen: dict, shape) -> None:
    codec, piece = build_codec(**chosen), gaussian(*shape)
    payload = codec.encode(piece)
    assert payload.shape == (codec.payload_bytes(shape),) and payload.dtype == torch.uint8
    decoded = codec.decode(payload, shape)
    assert decoded.shape == piece.shape and decoded.dtype == torch.float32 and decoded.isfinite().all()
    assert piece.numel() or codec.payload_bytes(shape) == 0
    if piece.numel() == 1:
        torch.testing.assert_close(decoded, piece, rtol=1e-2, atol=0)


@all_settings
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_read_as_fp32(chosen: dict, dtype: torch.dtype) -> None:
    codec, piece = build_codec(**chosen), gaussian(12, 19).to(dtype)
    payload = codec.encode(piece)
    assert torch.equal(payload, codec.encode(piece.float()))
    decoded = codec.decode(payload, piece.shape, dtype)
    assert decoded.dtype == dtype and torch.equal(decoded, codec.decode(payload, piece.shape).to(dtype))


@all_settings
def test_strides_gradients_and_alignment_do_not_matter(chosen: dict) -> None:
    codec, piece = build_codec(**chosen), gaussian(12, 38)[:, ::2].t().requires_grad_()
    before = piece.detach().clone()
    payload = codec.encode(piece)
    assert torch.equal(payload, codec.encode(before)) and torch.equal(piece, before)
    decoded = codec.decode(payload, piece.shape)
    misaligned = torch.cat([payload.new_zeros(3), payload])[3:]
    assert torch.equal(codec.decode(misaligned, piece.shape), decoded) and not decoded.requires_grad
    before.zero_()
    misaligned.zero_()
    assert torch.equal(codec.decode(payload, piece.shape), decoded)


@all_settings
def test_same_input_same_bits(chosen: dict) -> None:
    codec, piece = build_codec(**chosen), gaussian(300, 700)
    assert torch.equal(codec.encode(piece), codec.encode(piece.clone()))


@all_settings
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pieces_together_have_the_bits_of_single_ones(chosen: dict, shape) -> None:
    """Encoded, decoded, added to what is there, with error feedback."""
    codec, pieces, residual = build_codec(**chosen), gaussian(3, *shape), gaussian(3, *shape, seed=1)
    payloads = codec.encode_pieces(pieces.unbind())
    decoded, added = torch.ones_like(pieces), torch.ones_like(pieces)
    codec.decode_pieces(payloads, decoded.unbind(), weight=0.3)
    codec.decode_pieces(payloads, added.unbind(), weight=-0.25, add=True)
    fed, left = error_feedback.encode_pieces(codec, pieces.unbind(), residual, gain=0.5)
    for number, piece in enumerate(pieces):
        single = codec.encode(piece.clone())
        assert torch.equal(payloads[number], single)
        said = codec.decode(single, shape)
        assert torch.equal(decoded[number], said * 0.3)
        assert torch.equal(added[number], torch.ones(shape).add_(said, alpha=-0.25))
        alone = error_feedback.encode(codec, piece, residual[number], gain=0.5)
        assert torch.equal(fed[number], alone[0]) and torch.equal(left[number], alone[1])


@all_settings
def test_blocks_do_not_show(chosen: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, pieces = build_codec(**chosen), [gaussian(33, 17), gaussian(3, 211), gaussian(500)]
    whole = [codec.decode(codec.encode(piece), piece.shape) for piece in pieces]
    monkeypatch.setitem(packing._BLOCK, "cpu", 64)
    for piece, expected in zip(pieces, whole, strict=True):
        torch.testing.assert_close(codec.decode(codec.encode(piece), piece.shape), expected, rtol=1e-5, atol=1e-6)


@all_settings
def test_nothing_is_read_back_to_the_host(chosen: dict) -> None:
    """Tensors without data refuse whatever depends on data: item(), nonzero, boolean indices."""
    codec = build_codec(**chosen)
    payload = codec.encode(torch.empty(30, 17, device="meta"))
    assert payload.shape == (codec.payload_bytes((30, 17)),)
    assert codec.decode(payload, (30, 17)).shape == (30, 17)


@all_settings
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_visible(chosen: dict, value: float) -> None:
    codec, piece = build_codec(**chosen), gaussian(6, 50)
    piece[2, 7] = value
    decoded = codec.decode(codec.encode(piece), piece.shape)
    assert not decoded[2, 7].isfinite()
    if chosen.get("granularity") == "row":
        assert decoded[2].isnan().all() and decoded[[0, 1, 3, 4, 5]].isfinite().all()
    for everything in (torch.full((5, 9), value), torch.tensor(value)):
        assert not codec.decode(codec.encode(everything), everything.shape).isfinite().all()


@all_settings
@pytest.mark.parametrize("value", [0.0, 0.1, -3e-30, 7e20])
def test_constants_survive(chosen: dict, value: float) -> None:
    piece = torch.full((7, 301), value)
    piece[3] *= -2 if chosen.get("granularity") == "row" else 1
    decoded = round_trip(piece, **chosen)
    if chosen["kind"] == "topk":
        assert (decoded != 0).sum() == (value != 0) * round(piece.numel() * chosen["fraction"])
        piece = torch.where(decoded == 0, 0.0, piece)
    if "bf16" in chosen.values():
        piece = piece.bfloat16().float()
    if chosen["kind"] == "powersgd":
        torch.testing.assert_close(decoded, piece, rtol=1e-5, atol=0)
    else:
        assert torch.equal(decoded, piece)


@repeatable
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 60),
    scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e20]),
    shift=st.sampled_from([0.0, -1.0, 1e3]),
    chosen=st.sampled_from([s for s in SETTINGS if "bits" in s and s["kind"] != "topk"]),
    seed=st.integers(0, 1000),
)
def test_quantized_pieces_stay_in_their_range(rows, columns, scale, shift, chosen, seed) -> None:
    piece = scale * (student_t3(rows, columns, seed=seed) + shift)
    decoded, slack = round_trip(piece, **chosen), 1e-6 * piece.abs().max()
    assert (decoded >= piece.min() - slack).all() and (decoded <= piece.max() + slack).all()
    assert (decoded - piece).square().double().sum() <= 30 * (piece - piece.mean()).square().double().sum() + slack


# -- settings


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_says_what_it_is_and_what_it_takes(kind: str) -> None:
    codec = codec_class(kind)
    assert codec.kind == kind and codec.about and not inspect.isabstract(codec)
    built = default_codec(kind)
    assert built == type(built)(**vars(built)) and {build_codec(kind, **vars(built)), built} == {built}
    for name, setting in codec.settings().items():
        assert setting.help.endswith("."), name
        assert codec_settings()[name].config_default == setting.config_default or kind == "topk", name
    assert (f"`{kind}`", ", ".join(codec.settings()), codec.about) in table()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"kind": "loyd_max", "bits": 4}, "did you mean 'lloyd_max'.*'none', 'bf16', 'linear', .*'topk'"),
        (
            {"kind": "linear", "bits": 4, "granularity": "rows"},
            "granularity must be one of tensor, row; got 'rows'; did you mean row",
        ),
        ({"kind": "linear"}, "from 1 to 8; got None"),
        ({"kind": "statistical", "bits": 0}, "from 1 to 8; got 0"),
        ({"kind": "lloyd_max", "bits": 9}, "from 1 to 8; got 9"),
        ({"kind": "linear", "bits": 2.5}, "linear: bits must be a whole number; got 2.5"),
        ({"kind": "linear", "bits": True}, "linear: bits must be a whole number; got the bool True"),
        ({"kind": "none", "bits": 4}, "'none' takes no bits, got 4; allowed for linear, lloyd_max, statistical, topk"),
        ({"kind": "none", "momentum": 4}, "'none' takes no momentum, got 4; allowed for no kind"),
        (
            {"kind": "bf16", "granularity": "row"},
            "'bf16' takes no granularity, got 'row'; allowed for linear, lloyd_max, statistical, ternary",
        ),
        ({"kind": "linear", "bits": 4, "fraction": 0.1}, "takes no fraction, got 0.1; allowed for topk"),
        ({"kind": "none", "values": "bf16"}, "takes no values"),
        ({"kind": "topk"}, "above 0 and at most 1; got None"),
        ({"kind": "topk", "fraction": 0.0}, "above 0 and at most 1; got 0.0"),
        ({"kind": "topk", "fraction": 1.5}, "above 0 and at most 1; got 1.5"),
        ({"kind": "topk", "fraction": math.nan}, "topk: fraction must be a finite number; got nan"),
        ({"kind": "topk", "fraction": 0.1, "granularity": "row"}, "'topk' takes no granularity, got 'row'"),
        ({"kind": "topk", "fraction": 0.1, "bits": 4}, "takes bits only with values linear"),
        ({"kind": "topk", "fraction": 0.1, "values": "linear"}, "from 1 to 8; got None"),
        (
            {"kind": "topk", "fraction": 0.1, "values": "bf"},
            "values must be one of fp32, bf16, linear, .*; did you mean bf16",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(chosen: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_codec(**chosen)


@all_settings
def test_payloads_of_another_shape_are_refused(chosen: dict) -> None:
    codec = build_codec(**chosen)
    payload = codec.encode(gaussian(8, 8))
    for wrong in (payload[1:], payload.view(1, -1), payload.to(torch.int32)):
        with pytest.raises(ValueError, match=r"of a piece of shape \(8, 8\) must be uint8 \[\d+\]; got"):
            codec.decode(wrong, (8, 8))
