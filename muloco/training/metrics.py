"""Metrics of one worker: the run folder's own file, the console, TensorBoard and W&B; see docs/metrics.md."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from muloco._torchtitan import MetricsProcessor, device_type, peak_flops
from muloco.data.held_out import HeldOutDataLoader, bytes_per_token
from muloco.model.flavors import flavor
from muloco.outer.loop.sync import STATISTICS, SUMMED, Sync
from muloco.runs.folder import MetricsWriter, RunFolder, read_lines, standing
from muloco.runs.states import State, state_line
from muloco.settings.config import Config as RunConfig
from muloco.training.pulse import Pulse
from muloco.training.trackers import LastingTracker, TensorBoard, Tracker, WeightsAndBiases

logger = logging.getLogger(__name__)

COUNTS = {"": "torchtitan's count", "_6n": "6 N"}
"""Ways to count the FLOPs of a token, by the suffix of the names of values."""


class RunMetrics(MetricsProcessor):
    """torchtitan's clock of the steps. Its values go into `metrics/worker-NNN.jsonl`, to the console, to TensorBoard
    and to W&B, each once and everywhere by the same name. The worker's rank 0 does this."""

    @dataclass(kw_only=True, slots=True)
    class Config(MetricsProcessor.Config):
        muloco: Annotated[RunConfig, tyro.conf.Suppress]
        """The resolved config of the run; `fault_tolerance.replica_id` says which worker this is."""
        attempt: int
        held_out: HeldOutDataLoader.Config
        """The held-out data."""
        tokenizer: str
        """Folder of the tokenizer of the held-out data."""

    time_last_log: float
    ntokens_since_last_log: int

    def __init__(self, config: Config, *, dump_folder: str, **kwargs: Any):
        super().__init__(config, dump_folder=dump_folder, **kwargs)
        self._run = config.muloco
        self._worker = config.muloco.fault_tolerance.replica_id
        self._state: State | None = None
        # on accelerators attention is always compiled
        self.compiled = not config.muloco.compile.enable and device_type() == "cpu"
        """Whether a training step was taken, after which torch compiles nothing more; the trainer sets it."""
        self._peak_flops = peak_flops()
        folder = RunFolder(Path(dump_folder))
        self._path = folder.metrics(self._worker)
        self._writer = None
        self._pulse: Pulse | None = None
        self._trackers: list[Tracker] = []
        if torch.distributed.get_rank() == 0:
            self._writer = MetricsWriter(self._path, worker=self._worker, attempt=config.attempt)
            self._pulse = Pulse()
            self.enter(State.BUILDING, 0)
            if self._run.metrics.tensorboard:
                self._trackers.append(LastingTracker(TensorBoard(folder.tensorboard(self._worker), self._run)))
            if self._run.metrics.wandb:
                self._trackers.append(LastingTracker(WeightsAndBiases(folder, self._worker, self._run)))

    def should_log(self, step: int) -> bool:
        return super().should_log(step) or step == self._run.training.steps

    def enter(self, state: State, step: int) -> None:
        """Reports that the worker changes its state after inner step `step`."""
        if state in (State.TRAINING, State.VALIDATING) and not self.compiled:
            state = State.COMPILING
        if self._pulse is not None:
            self._pulse.beat(step, state)
        if state is not self._state:
            self._state = state
            self._write(step, state_line(state))

    def begin(self) -> None:
        """Reports that the inner steps begin; the time before does not count as training."""
        self.time_last_log = time.perf_counter()

    def log(self, step, global_avg_loss, global_max_loss, grad_norm, extra_metrics=None) -> None:
        assert extra_metrics is not None
        seconds = time.perf_counter() - self.time_last_log
        tokens_per_second = self._run.data_parallel_ranks * self.ntokens_since_last_log / seconds
        line = {
            "loss": global_avg_loss,
            "lr": next(value for name, value in extra_metrics.items() if name.startswith("lr/")),  # of a factor of 1
            "grad_norm": grad_norm,
            "tokens": int(extra_metrics["n_tokens_seen"]),
            "tokens_per_second": tokens_per_second,
            "data_share": sum(self.data_loading_times) / seconds,
            **self._of_device(tokens_per_second),
        }
        self._tell(step, line)
        shown = step, self._run.training.steps, global_avg_loss, grad_norm, speed_of(line)
        logger.info("step %d/%d: loss %.4f, gradient norm %.4f, %s", *shown)
        self.ntokens_since_last_log = 0
        self.data_loading_times.clear()
        self.time_last_log = time.perf_counter()
        self.device_memory_monitor.reset_peak_stats()

    def log_validation(self, loss, step, extra_metrics=None) -> None:
        """Ignores the report of torchtitan's validator, which covers only the batches that this worker computes."""

    def log_held_out_loss(self, name: str, loss: float, step: int) -> None:
        """Reports the mean loss on the held-out set, in nats a token, after inner step `step`: `validation_loss` of the
        anchor, or `local_validation_loss` of the worker's own weights."""
        if self._writer is None:
            return
        bits = loss / math.log(2) / self._bytes_per_token
        self._tell(step, {name: loss, name.replace("loss", "bits_per_byte"): bits})
        what = name.replace("_", " ").replace("validation loss", "held-out loss")
        logger.info("step %d/%d: %s %.4f, %.4f bits per byte", step, self._run.training.steps, what, loss, bits)

    def log_evaluation(self, step: int, figures: Mapping[str, float], seconds: float) -> None:
        """Reports the results of an evaluation of the anchor after inner step `step`, by TASK/METRIC, and its time."""
        line = {f"evaluation/{name}": value for name, value in figures.items()}
        self._tell(step, {**line, "evaluation_seconds": seconds}, event="evaluation")
        logger.info("evaluation after step %d: %s", step, ", ".join(f"{n} {v:.4f}" for n, v in figures.items()))

    def log_sync(self, step: int, sync: Sync) -> None:
        """Reports the statistics of a sync. All ranks of the worker have to call this."""
        sync = _of_whole_worker(sync)
        values = {statistic.name: statistic.of(sync) for statistic in STATISTICS}
        numbers = {f"sync/{name}": value for name, value in values.items() if isinstance(value, int | float)}
        for tracker in self._trackers:
            tracker.log(numbers, step)
        self._write(step, {"event": "sync", **values})

    def log_event(self, step: int, event: str, **values: str) -> None:
        """Reports what has happened after inner step `step`, such as `resume`: this attempt at the run begins."""
        self._write(step, {"event": event, **values})

    def done_at(self, step: int) -> set[str]:
        """Returns which of `validation` and `evaluation` of the anchor this worker has logged after an inner step."""
        lines = standing(list(read_lines(self._path))) if self._path.exists() else []
        there = [line for line in lines if line["step"] == step]
        validated = {"validation"} if any("validation_loss" in line for line in there) else set()
        return validated | ({"evaluation"} if any(line.get("event") == "evaluation" for line in there) else set())

    def log_fault(self, step: int, kind: str, phase: str) -> None:
        """Reports that a fault is about to be injected into this rank of this worker."""
        writer = MetricsWriter(self._path, worker=self._worker, attempt=self.config.attempt)
        writer.write(step, {"event": "fault", "kind": kind, "phase": phase, "rank": torch.distributed.get_rank()})
        writer.close()

    def times_of_faults(self) -> list[float]:
        """Returns the times at which faults have been injected into this worker."""
        lines = read_lines(self._path) if self._path.exists() else ()
        return [line["time"] for line in lines if line.get("event") == "fault"]

    def close(self) -> None:
        super().close()
        for tracker in self._trackers:
            tracker.close()
        if self._writer is not None:
            self._writer.close()

    @cached_property
    def _bytes_per_token(self) -> float:
        return bytes_per_token(self.config.held_out, self.config.tokenizer, seq_len=self._run.training.seq_len)

    def _of_device(self, tokens_per_second: float) -> dict[str, float]:
        if device_type() == "cpu":
            return {}
        return gpu_figures(
            tokens_per_second / self._run.ranks_per_worker,
            flops=self.num_flops_per_token,
            parameters=flavor(self._run.model.flavor).parameters,
            peak_flops=self._peak_flops,
            memory_gib=self.device_memory_monitor.get_peak_stats().max_reserved_gib,
        )

    def _tell(self, step: int, values: Mapping[str, float], *, event: str | None = None) -> None:
        for tracker in self._trackers:
            tracker.log(values, step)
        self._write(step, {**({} if event is None else {"event": event}), **values})

    def _write(self, step: int, line: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(step, line)


def _of_whole_worker(sync: Sync) -> Sync:
    """Returns a sync as rank 0 saw it, with the sums over all ranks: of integers modulo 2^64, of others in fp32."""
    totals: dict[str, Any] = {}
    for kind, dtype in ((int, torch.int64), (float, torch.float32)):
        names = [name for name in SUMMED if type(getattr(sync, name)) is kind]
        sums = torch.tensor([getattr(sync, name) for name in names], dtype=dtype)
        if torch.distributed.get_world_size() > 1:
            sums = sums.to(device_type())
            torch.distributed.all_reduce(sums)
        totals |= zip(names, sums.tolist(), strict=True)
    return replace(sync, **totals)


def gpu_figures(
    tokens_per_second: float, *, flops: int, parameters: int, peak_flops: float | None, memory_gib: float
) -> dict[str, float]:
    """Returns speed and memory of one GPU, without the fractions of its peak if the peak is not known.

    Args:
        tokens_per_second: tokens that this GPU processes in a second.
        flops: FLOPs of a token by torchtitan's count: 6 for each parameter outside the embedding, and attention in
            full, whatever its mask.
        parameters: N, number of all parameters; the paper and `muloco plan` count 6 N FLOPs a token.
        peak_flops: dense bf16 FLOP/s of the GPU; None if unknown.
        memory_gib: peak of reserved memory in GiB.
    """
    figures = {"memory_gib": memory_gib}
    for suffix, count in zip(COUNTS, (flops, 6 * parameters), strict=True):
        figures[f"tflops{suffix}"] = count * tokens_per_second / 1e12
        if peak_flops is not None:
            figures[f"mfu{suffix}"] = count * tokens_per_second / peak_flops
    return figures


def speed_of(line: Mapping[str, float]) -> str:
    """Returns the speed in a training line as text; on a GPU with memory, and FLOP/s and MFU by both counts."""
    words = [f"{line['tokens_per_second']:,.0f} tokens/s"]
    for suffix, count in COUNTS.items():
        if f"tflops{suffix}" in line:
            mfu = f" (MFU {line[f'mfu{suffix}']:.1%})" if f"mfu{suffix}" in line else ""
            words.append(f"{line[f'tflops{suffix}']:.1f} TFLOP/s by {count}{mfu}")
    if "memory_gib" in line:
        words.append(f"{line['memory_gib']:.1f} GiB")
    return ", ".join(words)
