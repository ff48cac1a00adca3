"""Checks of what workers send: codecs, digests, seals, and the copies to host memory."""

from collections.abc import Iterator
from unittest.mock import patch

import torch

from muloco.gpu_check.bench import Bench, Figures, expect, normal
from muloco.gpu_check.device import no_host_waits, seconds
from muloco.outer.codecs import KINDS, Codec, build_codec, codec_class, default_codec, quantized
from muloco.outer.loop.digest import digest
from muloco.outer.protocol.authentication import Key
from muloco.outer.protocol.seal import Seal, SecretHash, contents
from muloco.outer.protocol.staging import Staging

MIB = 2**20


def codec_bits(bench: Bench) -> Figures:
    repeats = bench.size(20, 2)
    pieces = [1e-3 * normal(shape, 3) for shape in ((1024, 704), (33, 77), (5,), (4099,))[bench.size(0, 1) :]]
    changing, worse, checked = set(), [], 0
    for name, codec in _codecs():
        for piece in pieces:
            there = piece.to(bench.device)
            codec.encode(there)  # allocates buffers that later calls reuse
            with no_host_waits(bench.device):
                payload = codec.encode(there)
                decoded = codec.decode(payload, piece.shape)
            same = torch.equal(decoded.cpu(), codec.decode(payload.cpu(), piece.shape))
            expect(same, f"{name} on {tuple(piece.shape)}: the CPU decodes the payload to different bits")
            if any(not torch.equal(codec.encode(there), payload) for _ in range(repeats)):
                changing.add(name)
            theirs = codec.decode(codec.encode(piece), piece.shape)
            error, cpu_error = float((decoded.cpu() - piece).norm()), float((theirs - piece).norm())
            if abs(error - cpu_error) > 1e-3 * float(piece.norm()) + 1e-3 * cpu_error:
                worse.append(f"{name} on {tuple(piece.shape)}: error {error:.4g}, on the CPU {cpu_error:.4g}")
            checked += 1
    expect(not worse, "; ".join(worse[:3]))
    expect(not changing, f"the payloads of {', '.join(sorted(changing))} change from call to call")
    return {"pieces": checked}


def codec_kernels(bench: Bench) -> Figures:
    used = bench.rehearsal or quantized.takes_kernels(bench.device)
    expect(used, "the codecs do not use their kernels on this device")
    shape, count = bench.size((1000, 704), (9, 7)), 3
    pieces = [1e-3 * normal(shape, seed).to(bench.device) for seed in range(count)]
    whole, worst = torch.stack(pieces), 0.0
    decoded, plain = torch.empty_like(whole), torch.empty_like(whole)
    for name, codec in _codecs():
        payloads = codec.encode_pieces(pieces)
        codec.decode_pieces(payloads, decoded.unbind())
        alike = all(map(torch.equal, map(codec.encode, pieces), payloads))
        expect(alike, f"{name}: the payloads of pieces encoded together differ from those encoded alone")
        with patch.object(quantized, "takes_kernels", lambda device: False):
            codec.decode_pieces(payloads, plain.unbind())
            expected = codec.encode_pieces(pieces)
        expect(torch.equal(decoded, plain), f"{name}: the kernels decode to different bits")
        if name.startswith("linear"):
            expect(torch.equal(payloads, expected), f"{name}: the kernels encode to different bits")
        codec.decode_pieces(expected, plain.unbind())
        error, plain_error = float((decoded - whole).norm()), float((plain - whole).norm())
        difference = abs(error - plain_error) / float(whole.norm())
        expect(difference < 1e-3, f"{name}: the error is {error:.4g} with kernels, {plain_error:.4g} without")
        worst = max(worst, difference)
    return {"errors_apart": worst}


def lloyd_max_repeats(bench: Bench) -> Figures:
    codec = build_codec("lloyd_max", bits=4)
    piece = torch.randn(bench.size(2**25, 2**12), device=bench.device)
    first, times = codec.encode(piece), bench.size(200, 3)
    other = sum(not torch.equal(codec.encode(piece), first) for _ in range(times))
    expect(not other, f"{other} of {times} payloads differ from the first")
    return {"payloads": times}


def digests(bench: Bench) -> Figures:
    shapes = bench.size(((3000, 2000), (17,), (5_000_000,)), ((30, 20), (17,)))
    tensors = [normal(shape, 9) for shape in shapes]
    there = [tensor.to(bench.device) for tensor in tensors]
    ours, theirs = int(digest(there)), int(digest(tensors))
    expect(ours == theirs, f"the digest is {ours:x} on the device and {theirs:x} on the CPU")
    size = sum(tensor.nbytes for tensor in tensors)
    return {"gb_per_s": size / seconds(lambda: digest(there), bench.device) / 1e9}


def seals(bench: Bench) -> Figures:
    secret, size = SecretHash(Key(b"a key of 24 characters..")), bench.size(16 * MIB, MIB // 2)
    payload = torch.randint(256, (size + 3,), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    there = payload.to(bench.device)
    covered = []
    for data in (payload, there):
        seal = Seal()
        for part in (data[:size], data[1:], data[:5]):
            seal.add(part, secret.sums(part))
        covered.append(contents([seal])[0])
    expect(covered[0] == covered[1], "the sums on the device differ from those on the CPU")
    return {
        "gb_per_s": size / seconds(lambda: secret.sums(there[:size]), bench.device) / 1e9,
        "host_gb_per_s": size / seconds(lambda: secret.gmac(payload[:size]), torch.device("cpu")) / 1e9,
    }


def staged_bytes(bench: Bench) -> Figures:
    size = bench.size(64 * MIB, MIB // 16)
    staging = Staging(bench.device, torch.device("cpu"))
    parts = [torch.randint(256, (length,), dtype=torch.uint8, device=bench.device) for length in (size, 0, 5)]
    parts.append(parts[0])
    sent = staging.to_wire(parts)
    expect(all(part.device.type == "cpu" for part in sent), "the bytes to be sent are not in host memory")
    expect(bench.rehearsal or sent[0].is_pinned(), "the bytes to be sent are not in page-locked memory")
    back = [staging.from_wire(part, bench.device) for part in sent]
    expect(all(map(torch.equal, back, parts)), "the bytes that came back differ from those that were sent")
    return {"to_host_gb_per_s": size / seconds(lambda: staging.to_wire(parts[:1]), bench.device) / 1e9}


def _codecs() -> Iterator[tuple[str, Codec]]:
    for kind in KINDS:
        if not issubclass(codec_class(kind), quantized.Quantized):
            yield kind, default_codec(kind)
            continue
        for granularity in ("tensor", "row"):
            for bits in (1, 2, 3, 4, 8):
                yield f"{kind} {bits} {granularity}", build_codec(kind, bits=bits, granularity=granularity)
    for fraction in (0.005, 0.5):
        yield f"topk {fraction}", build_codec("topk", fraction=fraction)
    yield "topk 0.1 lloyd_max 2", build_codec("topk", fraction=0.1, values="lloyd_max", bits=2)
