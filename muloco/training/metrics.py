"""Metrics of one worker: torchtitan's console, TensorBoard and W&B, and the run folder's own file."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from muloco._torchtitan import LoggerContainer, MetricsProcessor, WandBLogger, device_type
from muloco.outer import Sync
from muloco.outer.digest import as_hex
from muloco.training.run_folder import MetricsWriter, RunFolder, read_lines, standing

logger = logging.getLogger(__name__)


class RunMetrics(MetricsProcessor):
    """torchtitan's metrics, and each line also in `metrics/worker-NNN.jsonl` (written by the worker's rank 0)."""

    @dataclass(kw_only=True, slots=True)
    class Config(MetricsProcessor.Config):
        worker: int
        attempt: int
        last_step: int
        """Of the run; logged whatever `log_freq` says."""

    def __init__(self, config: Config, *, dump_folder: str, **kwargs: Any):
        run = Path(dump_folder).name
        for name, value in (
            ("WANDB_PROJECT", "muloco"),
            ("WANDB_RUN_GROUP", run),
            ("WANDB_RUN_NAME", f"{run}-worker-{config.worker:03d}"),
        ):
            os.environ.setdefault(name, value)
        # torchtitan keeps the TensorBoard folders of workers apart by its "replica" id
        super().__init__(config, dump_folder=dump_folder, ft_enable=True, ft_replica_id=config.worker, **kwargs)
        self._validation_name = "validation_loss"
        self._path = RunFolder(Path(dump_folder)).metrics(config.worker)
        self._writer = None
        if torch.distributed.get_rank() == 0:
            self._writer = MetricsWriter(self._path, worker=config.worker, attempt=config.attempt)
            if config.enable_wandb:
                self._insist_on_wandb()

    def should_log(self, step: int) -> bool:
        return super().should_log(step) or step == self.config.last_step

    def log(self, step, global_avg_loss, global_max_loss, grad_norm, extra_metrics=None) -> None:
        rates = {name: value for name, value in (extra_metrics or {}).items() if name.startswith("lr/")}
        extra = {name: value for name, value in (extra_metrics or {}).items() if name not in rates}
        seconds = time.perf_counter() - self.time_last_log
        line = {
            "loss": global_avg_loss,
            "lr": next(iter(rates.values())),  # one for all groups, whose factors are beside it
            "grad_norm": grad_norm,
            "tokens": int(extra["n_tokens_seen"]),
            "tokens_per_second": self._ranks * self.ntokens_since_last_log / seconds,
        }
        super().log(step, global_avg_loss, global_max_loss, grad_norm, extra_metrics={**extra, **line})
        self._write(step, line)

    def log_validation(self, loss, step, extra_metrics=None) -> None:
        line = {self._validation_name: loss}
        super().log_validation(loss, step, extra_metrics={**(extra_metrics or {}), **line})
        self._write(step, line)

    def log_evaluation(self, step: int, figures: Mapping[str, float], seconds: float) -> None:
        """What an evaluation of the anchor after inner step `step` has found, by TASK/METRIC, and how long it took."""
        line = {f"evaluation/{name}": value for name, value in figures.items()}
        self.logger.log({**line, "evaluation_seconds": seconds}, step)
        self._write(step, {"event": "evaluation", "evaluation_seconds": seconds, **line})
        logger.info("evaluation after step %d: %s", step, ", ".join(f"{n} {v:.4f}" for n, v in figures.items()))

    @contextlib.contextmanager
    def reporting_validation_as(self, name: str) -> Iterator[None]:
        """Within the context, validation losses are reported under this name."""
        self._validation_name = name
        try:
            yield
        finally:
            self._validation_name = "validation_loss"

    def log_sync(self, step: int, sync: Sync) -> None:
        """`sync` as rank 0 saw it, but with bytes, digests and products of all ranks of the worker added up."""
        counts = torch.tensor([sync.bytes_sent, round(sync.bytes_ring), sync.digest])
        products = torch.tensor([sync.own_square, sync.mean_square, sync.product], dtype=torch.float32)
        if torch.distributed.get_world_size() > 1:
            counts, products = counts.to(device_type()), products.to(device_type())
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(products)
        bytes_sent, bytes_ring, digest = counts.tolist()
        own_square, mean_square, product = products.tolist()
        values = {
            "fragment": sync.fragment,
            "participants": len(sync.weights),
            "attempts": sync.attempts,
            "bytes_sent": bytes_sent,
            "bytes_ring": bytes_ring,
            "seconds_waited": sync.seconds_waited,
            "seconds_hidden": sync.seconds_hidden,
            "pseudogradient_norm": own_square**0.5,
            "mean_norm": mean_square**0.5,
            "cosine": product / (own_square * mean_square) ** 0.5 if own_square * mean_square else 0.0,
        }
        self.logger.log({f"sync/{name}": value for name, value in values.items()}, step)
        weights = {str(worker): weight for worker, weight in sync.weights.items()}
        self._write(step, {"event": "sync", **values, "weights": weights, "digest": as_hex(digest)})

    def log_resume(self, step: int) -> None:
        """This attempt at the run begins after inner step `step`."""
        self._write(step, {"event": "resume"})

    def done_at(self, step: int) -> set[str]:
        """What this worker has logged of `validation` and `evaluation` of the anchor after an inner step."""
        lines = standing(list(read_lines(self._path))) if self._path.exists() else []
        there = [line for line in lines if line["step"] == step]
        validated = {"validation"} if any("validation_loss" in line for line in there) else set()
        return validated | ({"evaluation"} if any(line.get("event") == "evaluation" for line in there) else set())

    def log_join(self, step: int) -> None:
        """This worker was away and goes on from another one's state after inner step `step`."""
        logger.info("joined the others after step %d", step)
        self._write(step, {"event": "join"})

    def log_checkpoint_failure(self, step: int, reason: str) -> None:
        """This worker's part of the checkpoint of inner step `step` was not written."""
        self._write(step, {"event": "checkpoint_failed", "reason": reason})

    def log_fault(self, step: int, kind: str, phase: str) -> None:
        """This rank of this worker is about to be struck on demand."""
        writer = MetricsWriter(self._path, worker=self.config.worker, attempt=self.config.attempt)
        writer.write(step, {"event": "fault", "kind": kind, "phase": phase, "rank": torch.distributed.get_rank()})
        writer.close()

    def times_of_faults(self) -> list[float]:
        """When this worker was struck on demand so far."""
        lines = read_lines(self._path) if self._path.exists() else ()
        return [line["time"] for line in lines if line.get("event") == "fault"]

    def close(self) -> None:
        super().close()
        if self._writer is not None:
            self._writer.close()

    @property
    def _ranks(self) -> int:
        """Ranks of this worker that read different data."""
        return self.parallel_dims.dp_replicate * self.parallel_dims.dp_shard

    def _write(self, step: int, line: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(step, line)

    def _insist_on_wandb(self) -> None:
        """torchtitan logs a failure to start W&B and goes on without; whoever asked for it wants to know."""
        loggers = self.logger._loggers if isinstance(self.logger, LoggerContainer) else []
        if not any(isinstance(logger, WandBLogger) for logger in loggers):
            raise RuntimeError("metrics.wandb: Weights & Biases did not start; the line above says why")
