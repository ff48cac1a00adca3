"""Functions for what only CUDA has: streams, events, detection of host waits, memory statistics, graphs. On a CPU, for
rehearsals, each function does the nearest equivalent."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import torch


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def no_host_waits(device: torch.device) -> Iterator[None]:
    """Within the context, a call that makes the host wait for the GPU raises a RuntimeError. CUDA does not
    detect all of them."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def seconds(work: Callable[[], object], device: torch.device, *, repeats: int = 10, warmup: int = 2) -> float:
    """Returns the median time of one call in seconds, measured on the device, after `warmup` calls that are not
    measured."""
    for _ in range(warmup):
        work()
    taken = []
    for _ in range(repeats):
        synchronize(device)
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            end.synchronize()
            taken.append(start.elapsed_time(end) / 1e3)
        else:
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def launch_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds that the host takes to launch one call while the device is idle."""
    synchronize(device)
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Returns the peak of allocated bytes during a call, above those allocated before it; 0 on a CPU."""
    if device.type != "cuda":
        work()
        return 0
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def reserved_bytes(device: torch.device) -> int:
    """Bytes that the caching allocator holds; 0 on a CPU."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0


def streams_in_use(device: torch.device) -> int:
    """Number of streams for which the caching allocator holds memory; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    return len({segment["stream"] for segment in torch.cuda.memory_snapshot()})


def forget_memory(device: torch.device) -> None:
    """Returns cached memory that is not in use to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def keep_busy(device: torch.device) -> None:
    """Queues work of about a second on the device; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda._sleep(2_000_000_000)


def graphed(work: Callable[[], object], device: torch.device, *, warmup: int = 3) -> Callable[[], object]:
    """Captures a call into a CUDA graph, and returns the function that replays it. On a CPU nothing is captured, and
    the call itself is returned.

    Args:
        work: the call, which is made `warmup` times before the capture, as CUDA requires.
        device: the device on which it computes.
        warmup: number of calls before the capture.
    """
    if device.type != "cuda":
        for _ in range(warmup):
            work()
        return work
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(warmup):
            work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
