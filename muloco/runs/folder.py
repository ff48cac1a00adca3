"""The folder of a run: where each file is, and how metrics are written and read. Needs nothing but Python.

    outputs/NAME/  config.json  summary.json  metrics/worker-NNN.jsonl  logs/worker-NNN.log  tb/worker-NNN/
                   checkpoint/  tokenizer/  evaluations/  loss.png  attempts.log  commits/worker-NNN.log

Every worker writes a metrics file of its own, so that a shared file system needs no locks. A line is one JSON object;
all lines carry `schema`, `attempt`, `time`, `step` and `worker`. docs/metrics.md describes the values. There are

    training lines:    loss, lr, grad_norm, tokens (of this worker so far), tokens_per_second, data_share; on GPUs also
                       tflops, mfu, tflops_6n, mfu_6n, memory_gib
    sync lines:        event "sync" and the statistics of a sync (`muloco.outer.loop.sync.STATISTICS`)
    resume lines:      event "resume": this attempt begins after that step; lines of earlier attempts about later steps
                       do not count
    join lines:        event "join": the worker was away and took over another one's state after that step
    failures:          event "checkpoint_failed", reason: the worker's part of that step's checkpoint was not written
    losses:            event "lines_lost", lines, reason: that number of lines before this one could not be written
                       event "evaluation_failed", reason: the anchor was not evaluated after that step
    fault lines:       event "fault", kind, phase, rank: one of the worker's ranks was struck on demand (`chaos`)
    validation lines:  local_validation_loss and local_validation_bits_per_byte (of the worker's own weights on its
                       share of the held-out set, before an outer step), validation_loss and validation_bits_per_byte
                       (of the anchor on the whole set, after it; repeated until the anchor moves)
    evaluation lines:  event "evaluation", evaluation_seconds, evaluation/TASK/METRIC for each metric of lm-eval, and
                       evaluation/mean over the accuracies of the tasks
    state lines:       event "state", state: what the worker is doing from then on (`muloco.runs.states`); for the
                       live view; `read_metrics` skips them
"""

import contextlib
import functools
import itertools
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from muloco.errors import UserError, error_reason
from muloco.files import cut_torn_line, lines_from, write_whole
from muloco.runs.lines import LineFile, warn_once
from muloco.runs.metrics_lines import is_complete, parsed_line, parsed_lines

SCHEMA = 1
STATE = "state"
"""Event of the lines about the state of a worker."""
_ABOUT_STATE = b'"event": "%s"' % STATE.encode()
"""Text that occurs in such a line, and in no other line."""
_BATCH = 1000
"""Number of lines that are parsed together."""
ACCURACIES = ("acc_norm", "acc")
"""Metrics of lm-eval that are accuracies: the first of these that a task has counts."""
DURING_TRAINING = "during-training.json"
"""File in `evaluations/step-N/` with the results of an evaluation in training, which the metrics have, too."""


class RunFolder:
    """Paths of one run."""

    @classmethod
    def of(cls, outputs: str, name: str | None) -> "RunFolder":
        """Returns the folder of the run of this name. Raises UserError if the name is not the name of a folder
        directly below `outputs`."""
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise UserError(f"run.name must be the name of a folder directly below run.outputs; got {name!r}")
        return cls(Path(outputs) / name)

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.config = self.root / "config.json"
        self.summary = self.root / "summary.json"
        self.loss_plot = self.root / "loss.png"
        self.checkpoint = self.root / "checkpoint"
        self.tokenizer = self.root / "tokenizer"
        self.evaluations = self.root / "evaluations"
        self.attempts = self.root / "attempts.log"

    def metrics(self, worker: int) -> Path:
        return self.root / "metrics" / f"worker-{worker:03d}.jsonl"

    def tensorboard(self, worker: int) -> Path:
        return self.root / "tb" / f"worker-{worker:03d}"

    def log(self, worker: int | str) -> Path:
        name = f"worker-{worker:03d}" if isinstance(worker, int) else worker
        return self.root / "logs" / f"{name}.log"

    def commits(self, worker: int) -> Path:
        return self.root / "commits" / f"worker-{worker:03d}.log"

    def commit_logs(self) -> list[Path]:
        return sorted(self.root.glob("commits/worker-*.log"))

    def metrics_files(self) -> dict[int, Path]:
        """Metrics files by worker."""
        named = {path.stem.removeprefix("worker-"): path for path in sorted(self.root.glob("metrics/worker-*.jsonl"))}
        return {int(number): path for number, path in named.items() if number.isdecimal()}

    def metrics_size(self) -> int:
        """Bytes of all metrics files, which grow whenever a worker writes a line."""
        return sum(path.stat().st_size for path in self.metrics_files().values())


class MetricsWriter:
    """Appends lines to one worker's metrics file, each at once and completely. A line that cannot be written is
    dropped, and a later line says how many are missing."""

    def __init__(self, path: Path, *, worker: int, attempt: int):
        self._worker, self._attempt = worker, attempt
        with contextlib.suppress(OSError):  # the first line reports what is wrong with the file
            cut_torn_line(path)
        self._step = 0
        self._file = LineFile(path, gap=self._gap)

    def write(self, step: int, values: dict[str, Any]) -> None:
        self._step = step
        self._file.append(self._line(values))

    def close(self) -> None:
        self._file.close()

    def _gap(self, lines: int, reason: str) -> str:
        return self._line({"event": "lines_lost", "lines": lines, "reason": reason})

    def _line(self, values: dict[str, Any]) -> str:
        line = {
            "schema": SCHEMA,
            "attempt": self._attempt,
            "time": round(time.time(), 3),
            "step": self._step,
            "worker": self._worker,
            **values,
        }
        return json.dumps(line)


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """All valid lines of a run (`standing`) except those of states, by worker and in the order written. Lines that
    cannot be read are skipped; see `read_lines`."""
    return standing([line for path in folder.metrics_files().values() for line in read_lines(path, states=False)])


def standing(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a run without those of steps that were lost: an attempt that resumes the run after a step
    voids the later steps of all earlier attempts."""
    begun: dict[int, int] = {}
    first: dict[tuple[int, int], int] = {}
    for line in lines:
        attempt, step, own = line["attempt"], line["step"], (line["worker"], line["attempt"])
        if line.get("event") == "resume":
            begun[attempt] = min(step, begun.get(attempt, step))
        elif tells_of_training(line):
            first[own] = min(step, first.get(own, step))
    attempts = begun.keys() | {attempt for _, attempt in first}

    @functools.cache
    def valid_up_to(worker: int, attempt: int) -> float:
        later = [number for number in attempts if number > attempt]
        # metrics of earlier versions have no resume lines
        return min((begun.get(n, first.get((worker, n), math.inf) - 1) for n in later), default=math.inf)

    return [line for line in lines if line["step"] <= valid_up_to(line["worker"], line["attempt"])]


def tells_of_training(line: Mapping[str, Any]) -> bool:
    """Whether a line shows that a worker has computed something, or was ready to."""
    return "loss" in line or "validation_loss" in line or line.get("event") in ("sync", "resume")


def missing_metrics(folder: RunFolder, lines: Sequence[Mapping[str, Any]], workers: int) -> list[str]:
    """Returns what the metrics of this run lack in comparison with those of a complete run, because a file is missing
    or damaged, or because a worker was never there: one sentence for each file.

    Args:
        lines: of its metrics (`read_metrics`).
    """
    trained = {line["worker"] for line in lines if "loss" in line}
    files = [folder.metrics(worker) for worker in range(workers) if worker not in trained]
    found = [f"{path} {'has no training line' if path.exists() else 'is missing'}" for path in files]
    if not any(line["step"] == 0 and "validation_loss" in line for line in lines):
        found.append(f"no file in {folder.metrics(0).parent} has the held-out loss of step 0")
    return found


class MetricsTail:
    """Reads the lines that workers append to their metrics files while they run. A file that was replaced is read from
    its beginning; a file that cannot be read has no lines."""

    def __init__(self, folder: RunFolder, workers: int):
        self._paths = [folder.metrics(worker) for worker in range(workers)]
        self._offsets = [size_of(path) for path in self._paths]

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """Returns the complete lines that were added since the last call to the file of each worker. Files that cannot
        be read are skipped."""
        for worker, path in enumerate(self._paths):
            size = size_of(path)
            if size < self._offsets[worker]:
                self._offsets[worker] = 0
            if size == self._offsets[worker]:
                continue
            try:
                lines, self._offsets[worker] = lines_from(path, self._offsets[worker])
            except OSError as error:
                warn_once(f"{path} cannot be read: {error.strerror}; the view of worker {worker} is not updated")
                continue
            for values in map(parsed_line, lines):
                if values is not None and values["worker"] == worker and is_complete(values):
                    yield values


def size_of(path: Path) -> int:
    """Returns the number of bytes of a file, or 0 if it does not exist or cannot be accessed."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def unwritable(reason: object) -> UserError:
    return UserError(f"the run folder cannot be written to (run.outputs, run.name): {reason}")


def check_writable(folder: RunFolder) -> None:
    """Raises UserError if a run cannot write into its folder, which need not exist yet."""
    for path in (folder.root, folder.checkpoint, folder.log(0).parent, folder.metrics(0).parent):
        try:
            existing = next(place for place in (path, *path.absolute().parents) if place.exists())
        except OSError as error:  # such as a name that is too long
            raise unwritable(error) from None
        if not existing.is_dir():
            raise unwritable(f"{existing} is not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise unwritable(f"{existing} is read-only, or belongs to another user")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file. Raises ValueError, with a message that names the file, if it cannot be read,
    is damaged or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error_reason(error)}") from None
    except ValueError as error:
        what = "is empty" if not path.stat().st_size else f"is damaged (not JSON): {error}"
        raise ValueError(f"{path} {what}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=2) + "\n")


def read_lines(path: Path, *, states: bool = True) -> Iterator[dict[str, Any]]:
    """The lines of one metrics file, all attempts; see `read_metrics`. Lines that are not metrics, as a machine that
    fails may leave them, are skipped, and the log names them once; an incomplete last line is skipped silently. A file
    that cannot be read has no lines, which the log says, too.

    Args:
        states: whether lines about states are wanted.
    """
    bad: list[int] = []
    try:
        with path.open("rb") as file:
            wanted = ((number, line) for number, line in enumerate(file, start=1) if states or _ABOUT_STATE not in line)
            while batch := list(itertools.islice(wanted, _BATCH)):
                for (number, line), values in zip(batch, parsed_lines([line for _, line in batch]), strict=True):
                    if values is not None:
                        yield values
                    elif line.endswith(b"\n"):
                        bad.append(number)
    except OSError as error:
        warn_once(f"{path} cannot be read: {error_reason(error)}; its lines are missing")
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        warn_once(f"{path}, line {bad[0]}{more}: not a line of metrics; it is skipped")
