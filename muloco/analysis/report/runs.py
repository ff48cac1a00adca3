"""Run folders, read into records; what cannot be read is listed with the reason."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muloco.analysis.report.method import Variant, variant
from muloco.analysis.report.zero_shot import read_zero_shot
from muloco.model.flavors import Flavor, flavor
from muloco.training.config import Config
from muloco.training.load import ConfigError, flatten, from_dict
from muloco.training.run_folder import RunFolder, read_metrics

_ELSEWHERE = ("run.", "metrics.", "evaluation.", "compile.", "activation_checkpoint.")
_HOW = (
    *(f"checkpoint.{name}" for name in ("enable", "interval", "keep", "asynchronous")),
    *("data.prepare", "data.strict", "validation.freq", "training.local_batch_size", "outer_optimizer.offload"),
    *(f"fault_tolerance.{name}" for name in ("transport", "process_group", "host", "replica_id", "restarts")),
    *(f"fault_tolerance.{name}_seconds" for name in ("quorum_timeout", "straggler_timeout", "heartbeat_timeout")),
    "fault_tolerance.exchange_timeout_seconds",
)
_CORPUS = ("corpus", "weights", "text_field", "tokenizer", "vocabulary", "validation")


@dataclass(frozen=True)
class Problem:
    """A folder that is not in the tables, or something that a reader of the tables has to know about one."""

    folder: str
    kind: str
    """not a run, refused, not started, unfinished, broken, diverged, repeated or remark."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    folder: Path
    variant: Variant
    size: Flavor
    batch: int
    """Tokens of all workers in an inner step."""
    steps: int
    seed: int
    corpus: tuple[tuple[str, Any], ...]
    """What it was trained and evaluated on; the held-out losses of two runs can be compared if it is equal."""
    settings: Mapping[str, Any] = field(repr=False)
    """All fields of the resolved config that have a part in the result, but for the seed."""
    loss: float
    """Final held-out loss of the anchor, in nats a token."""
    curve: tuple[tuple[int, float], ...] = field(repr=False)
    """Held-out losses by inner step."""
    step_seconds: float | None
    """Median time of an inner step of a worker; without syncs, if metrics are logged more often than these come."""
    wall_seconds: float
    """Of the whole run, from start to end."""
    bytes_sent: int
    """By a worker to other workers, in all syncs."""
    zero_shot: Mapping[str, float] = field(default_factory=dict)
    """Accuracies in % by task."""

    @property
    def scale(self) -> str:
        return self.size.alias

    @property
    def tokens(self) -> int:
        return self.steps * self.batch

    @property
    def compute(self) -> float:
        """FLOPs as the paper counts them: 6 x parameters x tokens."""
        return 6.0 * self.size.parameters * self.tokens


def find_folders(paths: Iterable[Path]) -> tuple[list[Path], list[Problem]]:
    """The run folders among paths and one level below them, each once, in order.

    Returns:
        folders that look like runs (with config.json, summary.json or metrics), and for each path without any why.
    """
    found: dict[Path, None] = {}
    problems = []
    for path in paths:
        if not path.is_dir():
            problems.append(Problem(str(path), "not a run", "no such folder" if not path.exists() else "a file"))
            continue
        below = [path] if _looks_like_a_run(path) else sorted(one for one in path.iterdir() if one.is_dir())
        runs = [one for one in below if _looks_like_a_run(one)]
        found |= dict.fromkeys(one.resolve() for one in runs)
        if not runs:
            problems.append(Problem(str(path), "not a run", "neither it nor a folder in it has a config.json"))
        others = [one for one in below if one not in runs] if runs else []
        problems += [Problem(str(one), "not a run", "no config.json") for one in others]
    return list(found), problems


def _looks_like_a_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("config.json", "summary.json", "metrics"))


def read_run(root: Path) -> tuple[Run | None, list[Problem]]:
    """The finished run in a folder, or None; and what is to be said of it."""
    try:
        return _read(RunFolder(root))
    except KeyError as error:
        reason = f"{error} is missing in its summary or metrics"
    except (OSError, ValueError, TypeError, AttributeError) as error:  # the last two: JSON of another shape
        reason = str(error)
    return None, [Problem(str(root), "broken", reason)]


def _read(folder: RunFolder) -> tuple[Run | None, list[Problem]]:
    config = _config(folder)
    steps = config.training.steps
    assert steps is not None, "the resolved config was checked"
    lines = read_metrics(folder)
    if not folder.summary.exists():
        last = max((line["step"] for line in lines), default=0)
        return None, [_problem(folder, "unfinished", f"no summary.json; metrics reach step {last} of {steps}")]
    summary = _object(folder.summary)
    if summary["steps"] != steps:
        reason = f"its summary is of step {summary['steps']}, its config asks for {steps}"
        return None, [_problem(folder, "unfinished", reason)]
    zero_shot, left_out = read_zero_shot(folder, lines, steps=steps, limit=config.evaluation.limit)
    loss = float(summary["validation_loss"])
    run = Run(
        folder=folder.root,
        variant=variant(config),
        size=flavor(config.model.flavor),
        batch=config.tokens_per_step,
        steps=steps,
        seed=config.run.seed,
        corpus=_corpus(config, summary),
        settings={
            name: value
            for name, value in flatten(config).items()
            if not name.startswith(_ELSEWHERE) and name not in _HOW
        },
        loss=loss if math.isfinite(loss) else math.inf,
        curve=_curve(lines),
        step_seconds=_step_seconds(lines),
        wall_seconds=float(summary["wall_seconds"]),
        bytes_sent=int(summary["bytes_sent_per_worker"]),
        zero_shot=zero_shot,
    )
    problems = [_problem(folder, "remark", reason) for reason in left_out]
    if summary["lost_steps"]:
        problems.append(_problem(folder, "remark", f"lost {summary['lost_steps']} inner steps of workers"))
    if not run.curve:
        problems.append(_problem(folder, "remark", "no held-out losses in its metrics: not among the loss curves"))
    if not math.isfinite(loss):
        problems.append(_problem(folder, "diverged", f"its final held-out loss is {loss}"))
    return run, problems


def _problem(folder: RunFolder, kind: str, reason: str) -> Problem:
    return Problem(str(folder.root), kind, reason)


def _corpus(config: Config, summary: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """By name and digest; summaries of runs that were made by earlier versions have no digest."""
    named = {name: getattr(config.data, name) for name in _CORPUS}
    if config.data.tokenizer != "embedded":
        del named["vocabulary"]
    named["sha256"] = tuple(summary.get("corpus_sha256", ()))
    return (*named.items(), ("seq_len", config.training.seq_len), ("held_out", config.validation.sequences))


def _config(folder: RunFolder) -> Config:
    stored = _object(folder.config)
    if "resolved" not in stored:
        raise ConfigError(f"{folder.config} is not the config.json of a run")
    config = from_dict(stored["resolved"], where=str(folder.config))
    if config.training.steps is None or config.fault_tolerance.semi_sync_method is None:
        raise ConfigError(f"{folder.config}: its resolved config leaves values open")
    return config


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"no {path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def _curve(lines: Iterable[Mapping[str, Any]]) -> tuple[tuple[int, float], ...]:
    """All workers validate the same anchor: any one speaks."""
    return tuple(sorted({line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}.items()))


def _step_seconds(lines: Iterable[Mapping[str, Any]]) -> float | None:
    """From the rates in training lines: tokens since the line before, over tokens a second, over steps."""
    by_worker: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        if line.get("tokens_per_second"):
            by_worker[line["worker"]].append(line)
    seconds = []
    for training in by_worker.values():
        training.sort(key=lambda line: line["step"])
        step = tokens = 0
        for line in training:
            if line["step"] > step:
                seconds.append((line["tokens"] - tokens) / line["tokens_per_second"] / (line["step"] - step))
            step, tokens = line["step"], line["tokens"]
    return sorted(seconds)[len(seconds) // 2] if seconds else None
