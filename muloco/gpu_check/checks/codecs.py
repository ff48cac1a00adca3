"""Speed of the codecs, compared with a copy."""

from collections import Counter
from collections.abc import Callable

import torch

from muloco.gpu_check.bench import Bench, Figures
from muloco.gpu_check.device import seconds
from muloco.model.architectures.paper_llama.flavors import PaperLlama
from muloco.model.flavors import flavor
from muloco.outer.codecs import Codec, build_codec

WORKERS = 8
"""K. An exchange splits embedding and head into K parts; this check encodes one part of each."""
CODECS = {
    "bf16": build_codec("bf16"),
    "linear_4": build_codec("linear", bits=4),
    "linear_8": build_codec("linear", bits=8),
    "statistical_4": build_codec("statistical", bits=4),
    "lloyd_max_2": build_codec("lloyd_max", bits=2),
    "lloyd_max_4": build_codec("lloyd_max", bits=4),
    "lloyd_max_4_row": build_codec("lloyd_max", bits=4, granularity="row"),
    "topk_10_percent": build_codec("topk", fraction=0.1),
}
"""Codecs by their name in the figures."""


def codec_rates(bench: Bench) -> Figures:
    """Measures each codec on the tensors of a model, those of one shape together, as an exchange encodes them. The
    rates are in GB of fp32 elements per second, also for a copy of the tensors; `_bits` is the size of the payload in
    bits an element."""
    stacks = _stacks(bench)
    size = sum(stack.nbytes for stack in stacks)

    def rate(work: Callable[[], object]) -> float:
        return size / seconds(work, bench.device, repeats=bench.size(5, 1), warmup=1) / 1e9

    figures: Figures = {"pieces": sum(map(len, stacks)), "shapes": len(stacks), "size_mb": size / 1e6}
    figures["copy_gb_per_s"] = rate(lambda: [stack.clone() for stack in stacks])
    for name, codec in CODECS.items():
        figures |= {f"{name}_{figure}": value for figure, value in _measured(codec, stacks, rate).items()}
    return figures


def _measured(codec: Codec, stacks: list[torch.Tensor], rate: Callable[[Callable[[], object]], float]) -> Figures:
    def encode() -> list[torch.Tensor]:
        return [codec.encode_pieces(stack.unbind()) for stack in stacks]

    def decode() -> None:
        for payload, target in zip(payloads, targets, strict=True):
            codec.decode_pieces(payload, target.unbind())

    payloads, targets = encode(), [torch.empty_like(stack) for stack in stacks]
    bits = 8 * sum(payload.nbytes for payload in payloads) / sum(stack.numel() for stack in stacks)
    return {"bits": bits, "encode_gb_per_s": rate(encode), "decode_gb_per_s": rate(decode)}


def _stacks(bench: Bench) -> list[torch.Tensor]:
    """Returns the pieces of the 150M model, or in a rehearsal of the smallest one: one fp32 tensor [pieces, *shape] for
    each shape."""
    size = flavor(bench.size("150M", "tiny"))
    assert isinstance(size, PaperLlama)
    width, inner = size.width, size.feed_forward_width
    layer = [*4 * [(width, width)], (inner, width), (width, inner), (inner, width), *4 * [(width,)]]
    ends = [(size.vocabulary // WORKERS, width)] * 2
    generator = torch.Generator().manual_seed(0)
    counts = Counter([*size.layers * layer, (width,), *ends])
    return [
        (1e-3 * torch.randn(count, *shape, generator=generator)).to(bench.device) for shape, count in counts.items()
    ]
