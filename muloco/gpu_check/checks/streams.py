"""Checks of streams, copies and memory: rounds beside the inner steps, torchft's NCCL group, a sync."""

import time
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import AllToAllOptions

from muloco.gpu_check.bench import Bench, Figures, expect
from muloco.gpu_check.device import (
    forget_memory,
    keep_busy,
    peak_bytes,
    reserved_bytes,
    seconds,
    streams_in_use,
    synchronize,
)
from muloco.outer import OuterLoop, WorkerIdentity
from muloco.outer.codecs import build_codec
from muloco.outer.codecs.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.outer.loop.background import Pending
from muloco.outer.system_clock import SystemClock

MIB = 2**20


def rates(bench: Bench) -> Figures:
    device = bench.device
    there = torch.randn(bench.size(2**29, 2**18), device=device)
    copy = torch.empty_like(there)
    figures: Figures = {"copy_tb_per_s": 2 * there.nbytes / seconds(lambda: copy.copy_(there), device) / 1e12}
    for n in bench.size((1024, 2048, 4096, 8192), (64,)):
        x, y = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
        out = torch.empty_like(x)
        count = bench.size(32 * 1024 // n, 1)

        def products(x=x, y=y, out=out, count=count) -> None:
            for _ in range(count):
                torch.mm(x, y, out=out)

        figures[f"bf16_{n}_tflops"] = count * 2 * n**3 / seconds(products, device, repeats=5) / 1e12
    size = bench.size(64 * MIB, MIB)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    for kind in ("pinned", "pageable"):
        host = torch.empty(size, dtype=torch.uint8, pin_memory=kind == "pinned" and not bench.rehearsal)
        taken = seconds(partial(host.copy_, source, non_blocking=True), device)
        figures[f"to_{kind}_gb_per_s"] = size / taken / 1e9
    return figures


def side_stream(bench: Bench) -> Figures:
    n, rounds = bench.size(2**26, 2**10), bench.size(20, 3)
    for trial in range(rounds):
        data = torch.full((n,), float(trial), device=bench.device) * 2

        def work(data=data) -> torch.Tensor:
            total = data.clone()
            for _ in range(20):
                total = total + 1
            return total

        pending = Pending(work, clock=SystemClock(), concurrent=True, device=bench.device)
        busy = torch.randn(bench.size(2048, 8), bench.size(2048, 8), device=bench.device)
        for _ in range(20):
            busy = busy @ busy * 1e-3
        result = pending.result()
        data.fill_(-1)
        expect(bool((result == 2 * trial + 20).all()), f"round {trial}: the result does not match its data")
    return {"rounds": rounds}


def side_stream_memory(bench: Bench) -> Figures:
    forget_memory(bench.device)
    before, reserved = reserved_bytes(bench.device), []
    elements = bench.size(64 * MIB, MIB // 64)
    for _ in range(40):
        ones = partial(torch.ones, elements, device=bench.device)
        Pending(ones, clock=SystemClock(), concurrent=True, device=bench.device).result()
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

    def build(params) -> torch.optim.Optimizer:
        return torch.optim.SGD(params.values(), lr=0.7, momentum=0.6, nesterov=True, foreach=False)

    width, count = bench.size(2048, 16), 12
    size = 4 * count * width * width
    figures: Figures = {"parameters_gb": size / 1e9}
    kinds: dict[str, dict[str, Any]] = {
        "alone": {},
        "offloaded": {"device": torch.device("cpu")},
        "four_bits": {"compression": Compression(codec=build_codec("lloyd_max", bits=4), error_feedback=True)},
    }
    for name, options in kinds.items():
        params = {f"w{i}": torch.randn(width, width, device=bench.device) for i in range(count)}
        transport = InProcessGroup(1).transport(0, bench.device)
        loop = OuterLoop(params, build, transport, identity=WorkerIdentity(), sync_interval=2, **options)
        loop.start(0)
        with torch.no_grad():
            for step in range(1, 5):
                for param in params.values():
                    param.add_(torch.randn_like(param), alpha=1e-3)
                synchronize(bench.device)
                began = time.perf_counter()
                peak = peak_bytes(partial(loop.after_inner_step, step), bench.device) / size
                taken = time.perf_counter() - began
        figures[f"{name}_peak_n"], figures[f"{name}_ms"] = peak, 1e3 * taken
        del params, transport, loop
        forget_memory(bench.device)
    peak = float(figures["alone_peak_n"])
    expect(peak < 1.5, f"a sync takes {peak:.2f} N more; at most 1.5 N are allowed")
    return figures
