"""Checks of single components of muloco."""

import math
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import AllToAllOptions

from muloco.gpu_check.bench import Bench, CheckFailed, Figures, expect
from muloco.gpu_check.device import (
    Graph,
    forget_memory,
    keep_busy,
    no_host_waits,
    peak_bytes,
    reserved_bytes,
    seconds,
    streams_in_use,
    synchronize,
)

if TYPE_CHECKING:
    from muloco.outer.codecs import Codec

MIB = 2**20


def rates(bench: Bench) -> Figures:
    device = bench.device
    there = torch.randn(bench.size(2**29, 2**18), device=device)
    copy = torch.empty_like(there)
    found: Figures = {"copy_tb_per_s": 2 * there.nbytes / seconds(lambda: copy.copy_(there), device) / 1e12}
    for n in bench.size((1024, 2048, 4096, 8192), (64,)):
        x, y = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
        out = torch.empty_like(x)
        count = max(1, 32 * 1024 // n) if not bench.rehearsal else 1

        def products(x=x, y=y, out=out, count=count) -> None:
            for _ in range(count):
                torch.mm(x, y, out=out)

        found[f"bf16_{n}_tflops"] = count * 2 * n**3 / seconds(products, device, repeats=5) / 1e12
    size = bench.size(64 * MIB, MIB)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    for kind in ("pinned", "pageable"):
        host = torch.empty(size, dtype=torch.uint8, pin_memory=kind == "pinned" and not bench.rehearsal)
        taken = seconds(partial(host.copy_, source, non_blocking=True), device)
        found[f"to_{kind}_gb_per_s"] = size / taken / 1e9
    return found


def orthogonalize(bench: Bench) -> Figures:
    from muloco.optim import orthogonalize as orthogonalized

    shapes = bench.size(((512, 512), (2816, 1024), (1024, 2816), (2048, 2048), (3, 512, 512)), ((48, 48), (96, 32)))
    found: Figures = {}
    for shape in shapes:
        for scale in (1e-30, 1e-12, 1.0, 1e12, 1e30):
            matrix = (_normal(shape, 1) * scale).to(bench.device)
            with no_host_waits(bench.device):
                result = orthogonalized(matrix)
            values = torch.linalg.svdvals(result.cpu().double())
            name = "x".join(map(str, shape))
            if scale == 1.0:
                found[f"{name}_least"], found[f"{name}_greatest"] = float(values.min()), float(values.max())
            expect(
                bool(0.5 < values.median() < 1.3 and values.max() < 1.4),
                f"{name} at scale {scale:g}: singular values from {values.min():.3f} to {values.max():.3f}",
            )
    expect(not orthogonalized(torch.zeros(64, 64, device=bench.device)).any(), "zeros do not stay zeros")
    bad = torch.randn(64, 64, device=bench.device)
    bad[3, 3] = math.nan
    expect(bool(orthogonalized(bad).isnan().all()), "a NaN does not spread to the whole matrix")
    return found


def muon_rule(bench: Bench) -> Figures:
    """Compares steps on the device with those of the same class in fp64 on the CPU, by each rule that needs whole
    matrices. They differ by the rounding of bf16 products."""
    from muloco.optim.rules import RULES
    from muloco.pytorch import Muon

    shapes = bench.size(((256, 256), (704, 256), (256, 704)), ((32, 32), (48, 16)))
    differences: Figures = {}
    for rule in (rule for rule in RULES.values() if rule.needs_whole_matrices):
        moved = []
        for device, dtype in ((bench.device, torch.float32), (torch.device("cpu"), torch.float64)):
            start = [_normal(shape, seed).to(device, dtype) for seed, shape in enumerate(shapes)]
            params = [nn.Parameter(tensor.clone()) for tensor in start]
            optimizer = Muon([{"params": params, "algorithm": rule.name}], 0.02, weight_decay=0.01)
            for step in range(10):
                for index, param in enumerate(params):
                    param.grad = _normal(param.shape, 100 * (step + 1) + index).to(device, dtype)
                with no_host_waits(device):
                    optimizer.step()
            moved.append([(p.detach() - x).cpu().double() for p, x in zip(params, start, strict=True)])
        worst = max(float((a - b).norm() / b.norm()) for a, b in zip(*moved, strict=True))
        expect(
            worst < 0.03,
            f"{rule.name}: the changes of the parameters differ by {worst:.1e}, relative to their norm; below 0.03 is "
            "allowed",
        )
        differences["difference" if rule.name == "muon" else f"{rule.name}_difference"] = worst
    return differences


def muon_graph(bench: Bench) -> Figures:
    from muloco.pytorch import Muon

    shapes = bench.size([(512, 512)] * 4 + [(1408, 512), (512, 1408)], [(32, 32)] * 2)

    def make() -> tuple[list[nn.Parameter], Muon]:
        params = [nn.Parameter(_normal(shape, seed).to(bench.device)) for seed, shape in enumerate(shapes)]
        for index, param in enumerate(params):
            param.grad = _normal(param.shape, 100 + index).to(bench.device)
        return params, Muon(params, 0.02, weight_decay=0.01)

    eager_params, eager = make()
    graph_params, captured = make()
    graph = Graph(captured.step, bench.device, warmup=3)
    for _ in range(5):
        graph.replay()
    for _ in range(3 + 5):
        eager.step()
    synchronize(bench.device)
    worst = max(float((a - b).norm() / b.norm()) for a, b in zip(graph_params, eager_params, strict=True))
    expect(worst < 1e-5, f"replayed and eager steps differ by {worst:.1e}")
    return {
        "difference": worst,
        "eager_ms": 1e3 * seconds(eager.step, bench.device),
        "replayed_ms": 1e3 * seconds(graph.replay, bench.device),
    }


def symmetric(bench: Bench) -> Figures:
    from muloco.optim.symmetric import symmetric_product

    by = bench.size("triton", "matmul")
    found: Figures = {}
    for dtype, tolerance in ((torch.bfloat16, 1e-2), (torch.float32, 1e-5)):
        worst = 0.0
        for shape in bench.size(((1, 1024, 1024), (3, 512, 1408), (1, 129, 257), (7, 300, 1000)), ((2, 33, 65),)):
            x = _normal(shape, 3).to(bench.device, dtype)
            out = torch.empty(*shape[:-1], shape[-2], device=bench.device, dtype=dtype)
            symmetric_product(x, x.mT, out=out, by=by)  # compiles the kernel
            with no_host_waits(bench.device):
                symmetric_product(x, x.mT, out=out, by=by)
            exact = x.cpu().double() @ x.cpu().double().mT
            wrong = float((out.cpu().double() - exact).norm() / exact.norm())
            expect(wrong < tolerance, f"{'x'.join(map(str, shape))} in {dtype} has an error of {wrong:.1e}")
            expect(
                by == "matmul" or torch.equal(out, out.mT), f"{'x'.join(map(str, shape))} is not symmetric to the bit"
            )
            worst = max(worst, wrong)
        found[f"error_{str(dtype).removeprefix('torch.')}"] = worst
    for n in bench.size((1024, 2048, 4096), (64,)):
        x = torch.randn(1, n, n, device=bench.device).bfloat16()
        out = torch.empty_like(x)
        for way in ("triton", "matmul", "auto")[bench.size(0, 1) :]:
            taken = seconds(partial(symmetric_product, x, x.mT, out=out, by=way), bench.device)
            found[f"{way}_{n}_ms"] = 1e3 * taken
    return found


def gradient_watch(bench: Bench) -> Figures:
    from muloco.training.finite import GradientWatch, NonFiniteGradient

    shape = bench.size((1000, 300), (10, 3))
    named = {f"p{i}": nn.Parameter(torch.randn(shape, device=bench.device)) for i in range(50)}
    for param in named.values():
        param.grad = torch.randn_like(param)
    watch = GradientWatch(named)
    bad = named["p7"].grad
    assert bad is not None
    with no_host_waits(bench.device):
        watch.observe(1)
        bad[3, 2] = math.inf
        watch.observe(2)
    try:
        watch.check(2)
    except NonFiniteGradient as error:
        expect("p7" in str(error), f"it names another parameter: {error}")
    else:
        raise CheckFailed("an infinite gradient was not noticed")
    return {"microseconds": 1e6 * seconds(lambda: watch.observe(3), bench.device)}


def codec_bits(bench: Bench) -> Figures:
    repeats = bench.size(20, 2)
    pieces = [1e-3 * _normal(shape, 3) for shape in ((1024, 704), (33, 77), (5,), (4099,))[bench.size(0, 1) :]]
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
    from muloco.outer.codecs import quantized

    takes_kernels = "muloco.outer.codecs.quantized.takes_kernels"
    expect(
        bench.rehearsal or quantized.takes_kernels(bench.device), "the codecs do not use their kernels on this device"
    )
    shape, count = bench.size((1000, 704), (9, 7)), 3
    pieces = [1e-3 * _normal(shape, seed).to(bench.device) for seed in range(count)]
    worst = 0.0
    for name, codec in _codecs():
        payloads = codec.encode_pieces(pieces)
        decoded, plain = (torch.empty(count, *shape, device=bench.device) for _ in range(2))
        codec.decode_pieces(payloads, decoded.unbind())
        for piece, payload in zip(pieces, payloads, strict=True):
            expect(
                torch.equal(codec.encode(piece), payload),
                f"{name}: the payloads of pieces encoded together differ from those encoded alone",
            )
        with patch(takes_kernels, lambda device: False):
            codec.decode_pieces(payloads, plain.unbind())
            expected = codec.encode_pieces(pieces)
        expect(torch.equal(decoded, plain), f"{name}: the kernels decode to different bits")
        if name.startswith("linear"):
            expect(torch.equal(payloads, expected), f"{name}: the kernels encode to different bits")
        codec.decode_pieces(expected, plain.unbind())
        whole = torch.stack(pieces)
        error, plain_error = float((decoded - whole).norm()), float((plain - whole).norm())
        apart = abs(error - plain_error) / float(whole.norm())
        expect(apart < 1e-3, f"{name}: the error is {error:.4g} with kernels, {plain_error:.4g} without")
        worst = max(worst, apart)
    return {"errors_apart": worst}


def staged_bytes(bench: Bench) -> Figures:
    from muloco.outer.wire.staging import Staging

    size = bench.size(64 * MIB, MIB // 16)
    staging = Staging(bench.device, torch.device("cpu"))
    parts = [torch.randint(256, (length,), dtype=torch.uint8, device=bench.device) for length in (size, 0, 5)]
    sent = staging.to_wire([*parts, parts[0]])
    expect(all(part.device.type == "cpu" for part in sent), "the bytes to be sent are not in host memory")
    expect(bench.rehearsal or sent[0].is_pinned(), "the bytes to be sent are not in page-locked memory")
    back = [staging.from_wire(part, bench.device) for part in sent]
    same = all(torch.equal(a, b) for a, b in zip(back, [*parts, parts[0]], strict=True))
    expect(same, "the bytes that came back differ from those that were sent")
    return {"to_host_gb_per_s": size / seconds(lambda: staging.to_wire(parts[:1]), bench.device) / 1e9}


def lloyd_max_repeats(bench: Bench) -> Figures:
    from muloco.outer.codecs import build_codec

    codec = build_codec("lloyd_max", bits=4)
    piece = torch.randn(bench.size(2**25, 2**12), device=bench.device)
    first, times = codec.encode(piece), bench.size(200, 3)
    other = sum(not torch.equal(codec.encode(piece), first) for _ in range(times))
    expect(not other, f"{other} of {times} payloads differ from the first")
    return {"payloads": times}


def digests(bench: Bench) -> Figures:
    from muloco.outer.loop.digest import digest

    shapes = bench.size(((3000, 2000), (17,), (5_000_000,)), ((30, 20), (17,)))
    tensors = [_normal(shape, 9) for shape in shapes]
    there = [tensor.to(bench.device) for tensor in tensors]
    ours, theirs = int(digest(there)), int(digest(tensors))
    expect(ours == theirs, f"the digest is {ours:x} on the device and {theirs:x} on the CPU")
    size = sum(tensor.nbytes for tensor in tensors)
    return {"gb_per_s": size / seconds(lambda: digest(there), bench.device) / 1e9}


def seals(bench: Bench) -> Figures:
    from muloco.outer.protocol.authentication import Key
    from muloco.outer.protocol.seal import Seal, SecretHash, contents

    secret, size = SecretHash(Key(b"a key of 24 characters..")), bench.size(16 * MIB, MIB // 2)
    payload = torch.randint(256, (size + 3,), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    covered = []
    for data in (payload, payload.to(bench.device)):
        one = Seal()
        for part in (data[:size], data[1:], data[:5]):
            one.add(part, secret.sums(part))
        covered.append(contents([one])[0])
    expect(covered[0] == covered[1], "the sums on the device differ from those on the CPU")
    here, there = payload[:size], payload[:size].to(bench.device)
    return {
        "gb_per_s": size / seconds(lambda: secret.sums(there), bench.device) / 1e9,
        "host_gb_per_s": size / seconds(lambda: secret.gmac(here), torch.device("cpu")) / 1e9,
    }


def side_stream(bench: Bench) -> Figures:
    from muloco.outer.loop.background import Pending

    n, rounds = bench.size(2**26, 2**10), bench.size(20, 3)
    for trial in range(rounds):
        data = torch.full((n,), float(trial), device=bench.device) * 2

        def work(data=data) -> torch.Tensor:
            total = data.clone()
            for _ in range(20):
                total = total + 1
            return total

        pending = Pending(work, concurrent=True, device=bench.device)
        busy = torch.randn(bench.size(2048, 8), bench.size(2048, 8), device=bench.device)
        for _ in range(20):
            busy = busy @ busy * 1e-3
        result = pending.result()
        data.fill_(-1)
        expect(bool((result == 2 * trial + 20).all()), f"round {trial}: the result does not match its data")
    return {"rounds": rounds}


def side_stream_memory(bench: Bench) -> Figures:
    from muloco.outer.loop.background import Pending

    forget_memory(bench.device)
    before, reserved = reserved_bytes(bench.device), []
    elements = bench.size(64 * MIB, MIB // 64)
    for _ in range(40):
        Pending(lambda: torch.ones(elements, device=bench.device), concurrent=True, device=bench.device).result()
        reserved.append((reserved_bytes(bench.device) - before) / MIB)
    first, last = reserved[0], reserved[-1]
    expect(last <= 2 * first + 64, f"{first:.0f} MiB are reserved after the first round, {last:.0f} MiB after the last")
    return {"first_mib": first, "last_mib": last, "streams": streams_in_use(bench.device)}


def nccl_wait(bench: Bench) -> Figures:
    """Rounds over NCCL rely on this: `wait()` only orders streams, and `errored()` waits for the data."""
    from torchft.process_group import ProcessGroupGloo, ProcessGroupNCCL

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    kind = ProcessGroupGloo if bench.rehearsal else ProcessGroupNCCL
    group = kind(timedelta(seconds=60))
    group.configure(f"127.0.0.1:{store.port}/check", "one", 0, 1)
    sent = torch.ones(8, dtype=torch.uint8, device=bench.device)
    received = torch.zeros_like(sent)

    def exchange() -> float:
        began = time.perf_counter()
        group.alltoall_base(received, sent, [8], [8], AllToAllOptions()).wait()
        return time.perf_counter() - began

    exchange()
    synchronize(bench.device)
    keep_busy(bench.device)
    waited = exchange()
    began = time.perf_counter()
    failure = group.errored()
    asked = time.perf_counter() - began
    arrived = received.tolist()
    group.abort()
    expect(failure is None, f"errored() returned {failure}")
    expect(arrived == [1] * 8, f"after errored() the received data is {arrived}")
    if not bench.rehearsal:
        expect(waited < 0.1, f"wait() waits for the data ({waited:.2f} s), so rounds need not ask errored()")
        expect(asked > 0.1, f"errored() returned after {asked:.3f} s, before the data had arrived")
    return {"wait_ms": 1e3 * waited, "errored_ms": 1e3 * asked}


def outer_step_memory(bench: Bench) -> Figures:
    """Measures the peak memory of a sync above the memory between syncs, in fp32 copies of the parameters (N)."""
    from muloco.outer import OuterLoop, WorkerIdentity
    from muloco.outer.codecs import build_codec
    from muloco.outer.codecs.compression import Compression
    from muloco.outer.in_process import InProcessGroup

    def build(params) -> torch.optim.Optimizer:
        return torch.optim.SGD(params.values(), lr=0.7, momentum=0.6, nesterov=True, foreach=False)

    width, count = bench.size(2048, 16), 12
    size = 4 * count * width * width
    found: Figures = {"parameters_gb": size / 1e9}
    for name, four_bits, device in (
        ("alone", False, None),
        ("offloaded", False, torch.device("cpu")),
        ("four_bits", True, None),
    ):
        params = {f"w{i}": torch.randn(width, width, device=bench.device) for i in range(count)}
        compression = None
        if four_bits:
            compression = Compression(codec=build_codec("lloyd_max", bits=4), error_feedback=True)
        loop = OuterLoop(
            params,
            build,
            InProcessGroup(1).transport(0, bench.device),
            identity=WorkerIdentity(),
            sync_interval=2,
            compression=compression,
            device=device,
        )
        loop.start(0)
        peak, taken = 0.0, 0.0
        with torch.no_grad():
            for step in range(1, 5):
                for param in params.values():
                    param.add_(torch.randn_like(param), alpha=1e-3)
                synchronize(bench.device)
                began = time.perf_counter()
                peak = peak_bytes(partial(loop.after_inner_step, step), bench.device) / size
                taken = time.perf_counter() - began
        found[f"{name}_peak_n"], found[f"{name}_ms"] = peak, 1e3 * taken
        del params, loop
        forget_memory(bench.device)
    expect(
        float(found["alone_peak_n"]) < 1.5,
        f"a sync takes {found['alone_peak_n']:.2f} N more; at most 1.5 N are allowed",
    )
    return found


def _normal(shape: tuple[int, ...] | torch.Size, seed: int) -> torch.Tensor:
    """Returns normally distributed fp32 numbers on the CPU, the same for equal seeds."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _codecs() -> Iterator[tuple[str, "Codec"]]:
    from muloco.outer.codecs import KINDS, build_codec, codec_class, default_codec
    from muloco.outer.codecs.quantized import Quantized

    for kind in KINDS:
        if not issubclass(codec_class(kind), Quantized):
            yield kind, default_codec(kind)
            continue
        for granularity in ("tensor", "row"):
            for bits in (1, 2, 3, 4, 8):
                yield f"{kind} {bits} {granularity}", build_codec(kind, bits=bits, granularity=granularity)
    for fraction in (0.005, 0.5):
        yield f"topk {fraction}", build_codec("topk", fraction=fraction)
    yield "topk 0.1 lloyd_max 2", build_codec("topk", fraction=0.1, values="lloyd_max", bits=2)
