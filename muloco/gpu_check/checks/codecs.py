"""Speed of the codecs."""

import torch

from muloco.gpu_check.bench import Bench, Figures
from muloco.gpu_check.device import seconds

WORKERS = 8
"""K: of embedding and head, one of K parts is encoded."""


def rates(bench: Bench) -> Figures:
    """GB/s of fp32 in all pieces, one after the other, and bits an element of the payloads; a copy beside them."""
    from muloco.outer.codecs import build_codec

    pieces = _pieces(bench)
    size = sum(piece.nbytes for piece in pieces)
    found: Figures = {"pieces": len(pieces), "megabytes": size / 1e6}
    repeats = bench.size(5, 1)

    def rate(work) -> float:
        return size / seconds(work, bench.device, repeats=repeats, warmup=1) / 1e9

    found["copy_gb_per_s"] = rate(lambda: [piece.clone() for piece in pieces])
    for name, kind, options in (
        ("bf16", "bf16", {}),
        ("linear_4", "linear", {"bits": 4}),
        ("linear_8", "linear", {"bits": 8}),
        ("statistical_4", "statistical", {"bits": 4}),
        ("lloyd_max_2", "lloyd_max", {"bits": 2}),
        ("lloyd_max_4", "lloyd_max", {"bits": 4}),
        ("lloyd_max_4_row", "lloyd_max", {"bits": 4, "granularity": "row"}),
        ("topk_10_percent", "topk", {"fraction": 0.1}),
    ):
        codec = build_codec(kind, **options)
        payloads = [codec.encode(piece) for piece in pieces]
        elements = sum(piece.numel() for piece in pieces)
        found[f"{name}_bits"] = 8 * sum(payload.nbytes for payload in payloads) / elements
        found[f"{name}_encode_gb_per_s"] = rate(lambda codec=codec: [codec.encode(piece) for piece in pieces])
        decode = [(payload, piece.shape) for payload, piece in zip(payloads, pieces, strict=True)]
        found[f"{name}_decode_gb_per_s"] = rate(
            lambda codec=codec, decode=decode: [codec.decode(*one) for one in decode]
        )
    return found


def _pieces(bench: Bench) -> list[torch.Tensor]:
    from muloco.model.flavors import flavor

    size = flavor(bench.size("150M", "tiny"))
    width, inner = size.width, size.feed_forward_width
    layer = [*4 * [(width, width)], (inner, width), (width, inner), (inner, width), *4 * [(width,)]]
    ends = [(size.vocabulary // WORKERS, width)] * 2
    generator = torch.Generator().manual_seed(0)
    return [
        (1e-3 * torch.randn(s, generator=generator)).to(bench.device) for s in (*size.layers * layer, (width,), *ends)
    ]
