"""Speed of the codecs, compared with a copy."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from muloco.gpu_check.bench import Bench, Figures
from muloco.gpu_check.device import seconds
from muloco.outer.codecs import Codec, build_codec

WORKERS = 8
"""K. An exchange splits embedding and head into K parts; this check encodes one part of each."""


CODECS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("bf16", "bf16", {}),
    ("linear_4", "linear", {"bits": 4}),
    ("linear_8", "linear", {"bits": 8}),
    ("statistical_4", "statistical", {"bits": 4}),
    ("lloyd_max_2", "lloyd_max", {"bits": 2}),
    ("lloyd_max_4", "lloyd_max", {"bits": 4}),
    ("lloyd_max_4_row", "lloyd_max", {"bits": 4, "granularity": "row"}),
    ("topk_10_percent", "topk", {"fraction": 0.1}),
)
"""Name in the figures, kind and options of each codec."""


def codec_rates(bench: Bench) -> Figures:
    """Measures each codec on the tensors of a model, those of one shape together, as an exchange encodes them. The
    rates are in GB of fp32 elements per second, also for a copy of the tensors; `_bits` is the size of the payload in
    bits an element."""
    stacks = _stacks(bench)
    size, elements = sum(stack.nbytes for stack in stacks), sum(stack.numel() for stack in stacks)
    found: Figures = {"pieces": sum(map(len, stacks)), "shapes": len(stacks), "size_mb": size / 1e6}

    def rate(work: Callable[[], object]) -> float:
        return size / seconds(work, bench.device, repeats=bench.size(5, 1), warmup=1) / 1e9

    found["copy_gb_per_s"] = rate(lambda: [stack.clone() for stack in stacks])
    targets = [torch.empty_like(stack) for stack in stacks]
    for name, kind, options in CODECS:
        codec = build_codec(kind, **options)

        def encode(codec: Codec = codec) -> list[torch.Tensor]:
            return [codec.encode_pieces(stack.unbind()) for stack in stacks]

        payloads = encode()

        def decode(codec: Codec = codec, payloads: list[torch.Tensor] = payloads) -> None:
            for payload, target in zip(payloads, targets, strict=True):
                codec.decode_pieces(payload, target.unbind())

        found[f"{name}_bits"] = 8 * sum(payload.nbytes for payload in payloads) / elements
        found[f"{name}_encode_gb_per_s"], found[f"{name}_decode_gb_per_s"] = rate(encode), rate(decode)
    return found


def _stacks(bench: Bench) -> list[torch.Tensor]:
    """Returns the pieces of the 150M model, or in a rehearsal of the smallest one: one fp32 tensor [pieces, *shape] for
    each shape."""
    from muloco.model.architectures.paper_llama.flavors import PaperLlama
    from muloco.model.flavors import flavor

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
