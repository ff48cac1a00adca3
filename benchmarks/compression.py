"""What compression costs.

    python benchmarks/compression.py codecs [--threads N] [--rounds N] [--workers K] [--device cuda]
    python benchmarks/compression.py link [--rounds N]         (needs root: shaped_link.py says why)
    python benchmarks/compression.py streaming [--rounds N]    (so does this)

codecs: encode and decode of every kind on Gaussian pieces of the shapes of the 150M flavor: all its matrices and norms,
and of embedding and head the rows that one of K workers owns. A GPU gets all pieces of one shape together, as in a run.
Beside them, in turns in the same run: a copy (memcpy) of the same pieces, torch's and torchao's quantizers as far as
they are installed, and torch.topk. GB/s are fp32 bytes of the pieces over the median time of all pieces, one (shape)
after the other; encoding includes the search for scales or levels and the packing, where there is any. bits/element is
what the result takes, with metadata. Prints a table and writes results/compression/codecs.json. With one CPU thread the
clock is the processor time of this process, which other work on the machine disturbs less; a GPU has finished its work
whenever the clock is read.
link: two workers, each in a network namespace, average a tenth of the 150M flavor over links shaped to 100 Mbit/s and
1 Gbit/s and over an unshaped one; beside the seconds: bytes over the rate. Writes results/compression/link.json.
streaming: two workers train with 4 bits, three fragments and overlap on a link on which an all-reduce of the gradients
at every step would take ten times the compute; kept: share of the time that inner steps ran, beside that without
shaping. Writes results/compression/streaming.json.
"""

import argparse
import functools
import json
import math
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import compression_link
import torch
from shaped_link import why_impossible

from muloco.model.flavors import flavor
from muloco.outer.codecs import KINDS, build_codec, codec_class, default_codec
from muloco.outer.codecs.quantized import Quantized

RESULTS = Path(__file__).parents[1] / "results" / "compression"
Sent = list[tuple[torch.Tensor, ...]]
QUANTIZED = [kind for kind in KINDS if issubclass(codec_class(kind), Quantized)]


@dataclass(frozen=True)
class Method:
    """One way to make pieces of one shape small: `encode` gives tensors, `decode` gets them and the pieces' shape."""

    name: str
    encode: Callable[[list[torch.Tensor]], Sent]
    decode: Callable[[Sent, torch.Size], list[torch.Tensor]]


def one_by_one(
    name: str,
    encode: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
    decode: Callable[[tuple[torch.Tensor, ...], torch.Size], torch.Tensor],
) -> Method:
    return Method(
        name, lambda pieces: [encode(piece) for piece in pieces], lambda sent, shape: [decode(s, shape) for s in sent]
    )


def ours(kind: str, **settings) -> Method:
    codec = build_codec(kind, **settings)
    name = " ".join(str(value) + (" bits" if key == "bits" else "") for key, value in settings.items())

    def decode(sent: Sent, shape: torch.Size) -> list[torch.Tensor]:
        ((payloads,),) = sent
        if len(payloads) == 1:
            return [codec.decode(payloads[0], shape)]
        decoded = list(torch.empty(len(payloads), *shape, device=payloads.device))
        codec.decode_pieces(payloads, decoded)
        return decoded

    return Method(f"{kind} {name}".strip(), lambda pieces: [(codec.encode_pieces(pieces),)], decode)


def our_methods() -> list[Method]:
    others = [kind for kind in KINDS if kind not in (*QUANTIZED, "topk")]
    methods = [ours(kind, **vars(default_codec(kind))) for kind in others]
    for granularity in ("tensor", "row"):
        methods += [
            ours(kind, bits=bits, granularity=granularity)
            for kind in QUANTIZED
            for bits in ((1, 2, 3, 4, 8) if granularity == "tensor" else (2, 4, 8))
        ]
    methods += [ours("topk", fraction=fraction) for fraction in (0.01, 0.1, 0.5)]
    return [*methods, ours("topk", fraction=0.1, values="lloyd_max", bits=2)]


def torch_methods() -> list[Method]:
    def quantize(piece: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.quantize_per_tensor_dynamic(piece, torch.quint8, False),)

    def topk(piece: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = piece.view(-1)
        index = flat.abs().topk(max(1, round(0.1 * flat.numel())), sorted=False).indices
        return flat[index], index

    def scatter(sent: tuple[torch.Tensor, ...], shape: torch.Size) -> torch.Tensor:
        values, index = sent
        return values.new_zeros(shape.numel()).scatter_(0, index, values).view(shape)

    return [
        one_by_one("memcpy", lambda piece: (piece.clone(),), lambda sent, shape: sent[0].clone()),
        one_by_one("torch quint8, tensor", quantize, lambda sent, shape: sent[0].dequantize()),
        one_by_one("torch.topk 0.1, int64 indices", topk, scatter),
    ]


def torchao_methods() -> list[Method]:
    """Even steps by `torchao.quantization` (8 bits, one scale a piece or a row) and a codebook of torchao's optimizers
    (8 and 4 bits, one scale for 256 or 128 elements; pieces that do not divide are sent as they are)."""
    from torchao.optim.quant_utils import (
        create_dynamic_map,
        dequant_with_qmap,
        quantize_4bit_with_qmap,
        quantize_8bit_with_qmap,
        scale_tensor,
    )
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

    def block(shape: torch.Size, by_row: bool) -> tuple[int, ...]:
        return (1, *shape[1:]) if by_row and len(shape) > 1 else tuple(shape)

    def even(piece: torch.Tensor, by_row: bool) -> tuple[torch.Tensor, ...]:
        size = block(piece.shape, by_row)
        scale, zero = choose_qparams_affine(piece, MappingType.ASYMMETRIC, size, torch.uint8)
        return quantize_affine(piece, size, scale, zero, torch.uint8), scale, zero

    def uneven(sent: tuple[torch.Tensor, ...], shape: torch.Size, by_row: bool) -> torch.Tensor:
        codes, scale, zero = sent
        return dequantize_affine(codes, block(shape, by_row), scale, zero, torch.uint8)

    methods = [
        one_by_one(
            f"torchao uint8, {'row' if by_row else 'tensor'}",
            functools.partial(even, by_row=by_row),
            functools.partial(uneven, by_row=by_row),
        )
        for by_row in (False, True)
    ]
    eight = torch.tensor(create_dynamic_map(True))
    four = torch.tensor(create_dynamic_map(True, 3, 4))

    def map_8bit(piece: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scaled, scale = scale_tensor(piece.view(-1), 256)
        return quantize_8bit_with_qmap(scaled, eight.to(piece.device)), scale

    def unmap_8bit(sent: tuple[torch.Tensor, ...], shape: torch.Size) -> torch.Tensor:
        codes, scale = sent
        return dequant_with_qmap(codes, eight.to(codes.device), scale).view(shape)

    def map_4bit(piece: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scaled, scale = scale_tensor(piece.view(-1), 128)
        codes = quantize_4bit_with_qmap(scaled, four.to(piece.device))
        return codes[::2] << 4 | codes[1::2], scale

    def unmap_4bit(sent: tuple[torch.Tensor, ...], shape: torch.Size) -> torch.Tensor:
        packed, scale = sent
        codes = torch.stack([packed >> 4, packed & 15], dim=-1).view(-1)
        return dequant_with_qmap(codes, four.to(codes.device), scale).view(shape)

    return [
        *methods,
        one_by_one("torchao codebook 8 bits", map_8bit, unmap_8bit),
        one_by_one("torchao codebook 4 bits", map_4bit, unmap_4bit),
    ]


def gaussian_pieces(workers: int, device: str) -> list[torch.Tensor]:
    """Parts of one vector, as in an exchange."""
    size = flavor("150M")
    width, inner = size.width, size.feed_forward_width
    rows = size.vocabulary // workers
    layer = [*4 * [(width, width)], (inner, width), (width, inner), (inner, width), *4 * [(width,)]]
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, width), *size.layers * layer, (width,), (rows, width)]
    flat = (1e-3 * torch.randn(sum(map(math.prod, shapes)), generator=generator)).to(device)
    parts = flat.split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def measure(methods: list[Method], pieces: list[torch.Tensor], rounds: int, clock: Callable[[], float]) -> dict:
    """Each round runs every method once, after one round that is not timed."""
    encoding: dict[str, list[float]] = {method.name: [] for method in methods}
    decoding: dict[str, list[float]] = {method.name: [] for method in methods}
    rows: dict[str, dict] = {}
    groups: dict[torch.Size, list[torch.Tensor]] = {}
    for piece in pieces:
        groups.setdefault(piece.shape, []).append(piece)
    together = list(groups.values()) if pieces[0].is_cuda else [[piece] for piece in pieces]
    for timed in range(-1, rounds):
        for method in methods:
            spent = [0.0, 0.0]
            size, wrong = 0, 0.0
            for alike in together:
                started = clock()
                sent = method.encode(alike)
                encoded = clock()
                decoded = method.decode(sent, alike[0].shape)
                spent[1] += clock() - encoded
                spent[0] += encoded - started
                size += sum(tensor.nbytes for tensors in sent for tensor in tensors)
                if timed < 0:
                    for piece, got in zip(alike, decoded, strict=True):
                        wrong += float((got - piece).double().square().sum())
            if timed < 0:
                total = sum(float(piece.double().square().sum()) for piece in pieces)
                elements = sum(piece.numel() for piece in pieces)
                rows[method.name] = {"bits_per_element": 8 * size / elements, "relative_error": (wrong / total) ** 0.5}
                continue
            encoding[method.name].append(spent[0])
            decoding[method.name].append(spent[1])
    gigabytes = sum(piece.nbytes for piece in pieces) / 1e9
    for name, row in rows.items():
        row["encode_gigabytes_per_second"] = gigabytes / statistics.median(encoding[name])
        row["decode_gigabytes_per_second"] = gigabytes / statistics.median(decoding[name])
    return rows


def table(result: dict) -> str:
    lines = [
        f"{result['pieces']} pieces, {result['elements']:,} elements; {result['machine']}, {result['clock']} time, "
        f"load {result['load_average']:.1f} on {os.cpu_count()} cores, medians of {result['rounds']} rounds",
        f"{'':32} {'bits/element':>12} {'error':>8} {'encode GB/s':>12} {'decode GB/s':>12}",
    ]
    for name, row in result["methods"].items():
        lines.append(
            f"{name:32} {row['bits_per_element']:12.3f} {row['relative_error']:8.4f} "
            f"{row['encode_gigabytes_per_second']:12.2f} {row['decode_gigabytes_per_second']:12.2f}"
        )
    return "\n".join([*lines, *(f"not installed: {name}" for name in result["not_installed"])])


def codecs(chosen: argparse.Namespace) -> None:
    torch.set_num_threads(chosen.threads)
    by_processor = chosen.device == "cpu" and chosen.threads == 1

    def clock() -> float:
        if chosen.device == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if by_processor else time.perf_counter()

    pieces = gaussian_pieces(chosen.workers, chosen.device)
    methods, missing = [*torch_methods(), *our_methods()], []
    try:
        methods[3:3] = torchao_methods()
    except ImportError:
        missing.append("torchao")
    device = torch.cuda.get_device_name() if chosen.device == "cuda" else f"{chosen.threads} CPU threads"
    result = {
        "pieces": len(pieces),
        "elements": sum(piece.numel() for piece in pieces),
        "machine": f"{device}, {platform.machine()}, torch {torch.__version__}",
        "clock": "processor" if by_processor else "wall",
        "rounds": chosen.rounds,
        "load_average": os.getloadavg()[0],
        "not_installed": missing,
        "methods": measure(methods, pieces, chosen.rounds, clock),
    }
    print(table(result))
    RESULTS.mkdir(parents=True, exist_ok=True)
    suffix = "" if chosen.device == "cpu" else f"_{chosen.device}"
    (RESULTS / f"codecs{suffix}.json").write_text(json.dumps(result, indent=2) + "\n")


def link(chosen: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        result = compression_link.measure(Path(scratch), rounds=chosen.rounds)
    print(compression_link.table(result))
    write("link", result)


def streaming(chosen: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        result = compression_link.measure_streaming(Path(scratch), rounds=chosen.rounds)
    print(compression_link.streaming_table(result))
    write("streaming", result)


def write(name: str, result: dict) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "benchmarks/compression.py", *sys.argv[1:]])
    (RESULTS / f"{name}.json").write_text(json.dumps({"command": command, **result}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("codecs", help="encode and decode rates")
    part.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    part.add_argument("--rounds", type=int, default=5, help="timed passes over the pieces by each method")
    part.add_argument("--workers", type=int, default=8, help="K; embedding and head are cut into so many parts")
    part.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    part.set_defaults(run=codecs)
    for name, run in (("link", link), ("streaming", streaming)):
        part = parts.add_parser(name)
        part.add_argument("--rounds", type=int, default=3, help="timed ones")
        part.set_defaults(run=run)
    chosen = parser.parse_args()
    if chosen.part != "codecs" and (reason := why_impossible()):
        parser.exit(2, f"compression: {reason}\n")
    chosen.run(chosen)


if __name__ == "__main__":
    main()
