"""Codecs with their settings, and pieces to encode, for the tests of codecs."""

import pytest
import torch

from muloco.outer.codecs import KINDS, build_codec, codec_class

SETTINGS: list[dict] = [
    {"kind": "none"},
    {"kind": "bf16"},
    *(
        {"kind": kind, "bits": bits, "granularity": granularity}
        for kind in ("linear", "statistical", "lloyd_max")
        for bits in (3, 8)
        for granularity in ("tensor", "row")
    ),
    {"kind": "powersgd", "rank": 2},
    {"kind": "topk", "fraction": 0.1},
    {"kind": "topk", "fraction": 1.0, "values": "bf16"},
    {"kind": "topk", "fraction": 0.3, "values": "lloyd_max", "bits": 2},
]
SETTINGS += [
    {"kind": kind} | {name: value for name, (value, _) in codec_class(kind).derive({}).items()} | rows
    for kind in KINDS
    for rows in ({}, {"granularity": "row"})
    if kind not in {chosen["kind"] for chosen in SETTINGS} and rows.keys() <= codec_class(kind).settings().keys()
]
"""Examples of every kind; a kind that is not listed has its derived settings, for a tensor and for rows."""
SHAPES = [(), (1,), (7,), (0,), (0, 5), (3, 0), (1, 1), (5, 1), (1, 9), (33, 17), (4, 3, 5)]

all_settings = pytest.mark.parametrize("chosen", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))


def round_trip(piece: torch.Tensor, **chosen) -> torch.Tensor:
    codec = build_codec(**chosen)
    return codec.decode(codec.encode(piece), piece.shape)


def relative_error(piece: torch.Tensor, **chosen) -> float:
    return float((round_trip(piece, **chosen) - piece).norm() / piece.norm())


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def student_t3(*shape: int, seed: int = 0) -> torch.Tensor:
    chi_squared = gaussian(3, *shape, seed=seed + 1).square().sum(0)
    return gaussian(*shape, seed=seed) / (chi_squared / 3).sqrt()
