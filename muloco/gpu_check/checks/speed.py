"""Training speed of the 150M flavor."""

import re
import statistics
import sys
import time
from unittest.mock import patch

import torch

from muloco.gpu_check.bench import Bench, Figures, expect, in_checkout
from muloco.gpu_check.device import synchronize
from muloco.gpu_check.runs import REHEARSED, Fields, train, train_here, words_of

CONFIG = "diloco/2x_4gpu_muloco"
SIZE: Fields = {
    "model.flavor": "150M",
    "fault_tolerance.group_size": "1",
    "fault_tolerance.sync_steps": "10",
    "parallelism.data_parallel_replicate_degree": "1",
    "training.global_batch_size": "64",
    "training.local_batch_size": "32",
    "training.steps": "31",
    "lr_scheduler.warmup_steps": "8",
    "validation.freq": "1000",
    "validation.sequences": "32",
    "metrics.log_freq": "1",
}
"""64 sequences of 2,048 tokens a step; three syncs, after steps that are not measured."""
MUON: Fields = {"fault_tolerance.semi_sync_method": "none"}
ADAMW: Fields = {**MUON, "optimizer.name": "AdamW", "optimizer.lr": "0.002"}
PROFILED_STEP = 15
_ON_CONSOLE = re.compile(r"step:\s*(\d+) .*? tps: ([\d,]+)")


def speed_muloco(bench: Bench) -> Figures:
    return _speed(bench, "speed_muloco", {})


def speed_adamw(bench: Bench) -> Figures:
    return _speed(bench, "speed_adamw", ADAMW)


def speed_muon(bench: Bench) -> Figures:
    return _speed(bench, "speed_muon", MUON)


def speed_torchtitan(bench: Bench) -> Figures:
    script = in_checkout("benchmarks", "plain_torchtitan.py")
    fields = _fields(bench, ADAMW)
    said = bench.python(str(script), CONFIG, *words_of(bench, "speed_torchtitan", fields))
    rates = [float(rate.replace(",", "")) for step, rate in _ON_CONSOLE.findall(said)]
    expect(len(rates) > 2, "torchtitan's console output has no speed")
    figures: Figures = {"tokens_per_second": round(statistics.median(rates[len(rates) // 2 :]))}
    for name, pattern, factor in (("mfu", r"mfu: ([\d.]+)%", 0.01), ("memory_gib", r"memory:\s*([\d.]+)GiB", 1)):
        if matches := re.findall(pattern, said):
            figures[name] = factor * float(matches[-1])
    return figures


def profile(bench: Bench) -> Figures:
    """Profiles one step of the trainer with PyTorch's profiler. The log of the row has the table of kernels."""
    from muloco.training.trainer import MulocoTrainer

    step_of_trainer = MulocoTrainer.train_step
    at = bench.size(PROFILED_STEP, 3)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if not bench.rehearsal:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=activities)
    walls = []

    def train_step(trainer, *args, **kwargs):
        if trainer.step != at:
            return step_of_trainer(trainer, *args, **kwargs)
        synchronize(bench.device)
        with profiler:
            began = time.perf_counter()
            result = step_of_trainer(trainer, *args, **kwargs)
            synchronize(bench.device)
            walls.append(time.perf_counter() - began)
        return result

    with patch.object(MulocoTrainer, "train_step", train_step):
        train_here(bench, "profile", CONFIG, _fields(bench, {}))
    expect(len(walls) == 1, f"step {at} ran {len(walls)} times instead of once")
    order = "self_cpu_time_total" if bench.rehearsal else "self_device_time_total"
    sys.stdout.write(profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60) + "\n")
    busy = _busy_seconds(profiler)
    return {"step_ms": 1e3 * walls[0], "device_busy_share": busy / walls[0]}


def _busy_seconds(profiler: torch.profiler.profile) -> float:
    """Returns the seconds in which the device ran at least one kernel or copy."""
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    busy, last = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, last))
        last = max(last, end)
    return busy / 1e6


def _speed(bench: Bench, name: str, fields: Fields) -> Figures:
    """Trains and returns its speed: the median over the second half of the steps, each of which has its own line."""
    run = train(bench, name, CONFIG, _fields(bench, fields))
    lines = [line for line in run.lines if "tokens_per_second" in line]
    last = lines[-1]

    def median(figure: str) -> float:
        return statistics.median(line[figure] for line in lines[len(lines) // 2 :])

    rate, tokens = median("tokens_per_second"), last["tokens"] / last["step"]
    figures: Figures = {**run.figures(), "tokens_per_second": round(rate), "step_ms": round(1e3 * tokens / rate, 1)}
    figures |= {
        figure: round(median(figure), 4) for figure in ("tflops", "tflops_6n", "mfu", "mfu_6n") if figure in last
    }
    if "memory_gib" in last:
        figures["memory_gib"] = round(max(line["memory_gib"] for line in lines), 2)
    return figures


def _fields(bench: Bench, fields: Fields) -> Fields:
    return {**SIZE, **fields, **(REHEARSED if bench.rehearsal else {})}
