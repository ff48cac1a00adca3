"""Short training runs, and the reading of their metrics."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muloco.gpu_check.bench import Bench, Figures, expect
from muloco.runs.folder import RunFolder, read_metrics

Digests = dict[tuple[int, int, int], str]
"""Digests of anchors by worker, step and fragment."""
Fields = dict[str, str | tuple[str, ...]]
"""Values of config fields by their full name, as on the command line."""

LAPTOP: Fields = {
    "training.steps": "60",
    "lr_scheduler.warmup_steps": "10",
    "validation.freq": "30",
    "metrics.log_freq": "10",
    "metrics.tensorboard": "False",
    "checkpoint.enable": "False",
    "training.precision": "bfloat16",
    "compile.enable": "True",
}
"""Fields that all short training runs share."""
REHEARSED: Fields = {
    "model.flavor": "tiny",
    "training.seq_len": "64",
    "training.global_batch_size": "8",
    "training.local_batch_size": "2",
    "training.steps": "12",
    "lr_scheduler.warmup_steps": "2",
    "validation.freq": "6",
    "validation.sequences": "4",
    "metrics.log_freq": "2",
    "compile.enable": "False",
    "training.precision": "float32",
}
"""Fields that a rehearsal overrides."""

LOSS_TOLERANCE = 0.05
"""Difference of losses, in nats a token, that is allowed between two runs that sum in different orders."""


@dataclass(frozen=True)
class Run:
    """A finished training run: its folder and the lines of the metrics of all workers."""

    folder: RunFolder
    lines: list[dict[str, Any]]

    def digests(self) -> Digests:
        syncs = [line for line in self.lines if line.get("event") == "sync"]
        return {(line["worker"], line["step"], line["fragment"]): line["digest"] for line in syncs}

    def losses(self) -> list[float]:
        """Returns the training losses of worker 0, in nats a token."""
        return [line["loss"] for line in self.lines if "loss" in line and line["worker"] == 0]

    def total(self, name: str) -> float:
        """Returns the sum of a figure over all syncs of all workers."""
        return sum(line[name] for line in self.lines if line.get("event") == "sync")

    def figures(self) -> Figures:
        """Returns losses, syncs and speed. The speed is that of the last line, when everything has been compiled."""
        last = [line for line in self.lines if "tokens_per_second" in line][-1]
        losses = self.losses()
        figures: Figures = {
            "loss_first": round(losses[0], 4),
            "loss_last": round(losses[-1], 4),
            "tokens_per_second": round(last["tokens_per_second"]),
        }
        held_out = [line["validation_loss"] for line in self.lines if "validation_loss" in line]
        if held_out:
            figures["held_out_loss"] = round(held_out[-1], 4)
        if syncs := {key[1:] for key in self.digests()}:
            figures["syncs"] = len(syncs)
            figures["waited_seconds"] = round(self.total("seconds_waited"), 3)
            figures["hidden_seconds"] = round(self.total("seconds_hidden"), 3)
            figures["sent_mb"] = round(self.total("bytes_sent") / 1e6, 2)
        return figures | {
            name: round(last[name], 4) for name in ("tflops", "mfu", "mfu_6n", "memory_gib") if name in last
        }


def train(bench: Bench, name: str, config: str, fields: Fields) -> Run:
    """Trains with `muloco train`. Checks that the losses are finite and fall, and that the workers agree after each
    sync.

    Args:
        bench: the bench of the check.
        name: name of the run in the scratch folder.
        config: a config, as `muloco train` accepts it.
        fields: as for `words_of`.

    Raises:
        CheckFailed: the training failed, or its losses or digests are wrong.
    """
    bench.muloco("train", config, *words_of(bench, name, fields))
    run = finished(bench, name)
    losses, digests = run.losses(), run.digests()
    expect(bool(losses) and all(map(math.isfinite, losses)), f"losses are {losses}")
    expect(bench.rehearsal or losses[-1] < losses[0], f"the loss did not fall: {losses[0]:.4f} to {losses[-1]:.4f}")
    expected = {key[1:]: digest for key, digest in digests.items()}
    apart = sorted({key[1:] for key, digest in digests.items() if digest != expected[key[1:]]})
    expect(not apart, f"workers had different anchors after the syncs (step, fragment) {apart[:5]}")
    return run


def train_here(bench: Bench, name: str, config: str, fields: Fields) -> Run:
    """Trains a run of one worker in this process, where it can be patched or profiled. The arguments are those of
    `train`; the metrics are not checked."""
    from muloco.resolve import resolve
    from muloco.settings.load import load_config
    from muloco.training.worker import run_worker

    loaded = load_config(config, words_of(bench, name, fields))
    run_worker(resolve(loaded), chosen=loaded)
    return finished(bench, name)


def words_of(bench: Bench, name: str, fields: Fields) -> list[str]:
    """Returns the options of `muloco train` for a run of this name with these fields, which override those of `LAPTOP`
    and, in a rehearsal, `REHEARSED`."""
    run: Fields = {"run.name": name, "run.outputs": str(outputs(bench, name).parent)}
    chosen = {**LAPTOP, **(REHEARSED if bench.rehearsal else {}), **fields, **run}
    words = []
    for field, value in chosen.items():
        words += [f"--{field}", *([value] if isinstance(value, str) else value)]
    return words


def finished(bench: Bench, name: str) -> Run:
    """Returns the finished run of this name, which this row or an earlier one has trained."""
    folder = RunFolder(outputs(bench, name))
    return Run(folder, read_metrics(folder))


def outputs(bench: Bench, name: str) -> Path:
    return bench.scratch / "outputs" / name


def expect_close_losses(run: Run, other: Run, tolerance: float = LOSS_TOLERANCE) -> Figures:
    """Compares the training losses of two runs and returns their largest difference, in nats a token, as a figure.

    Raises:
        CheckFailed: the difference exceeds `tolerance`, or the runs have different numbers of losses.
    """
    ours, theirs = run.losses(), other.losses()
    expect(len(ours) == len(theirs), f"one run has {len(ours)} losses and the other {len(theirs)}")
    worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    expect(worst <= tolerance, f"the losses differ by up to {worst:.4f}; at most {tolerance} is allowed")
    return {"losses_apart": worst}
