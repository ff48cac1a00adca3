"""Run folders, read into records; what cannot be read is listed with the reason."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muloco.analysis.records.method import Variant, variant
from muloco.analysis.records.zero_shot import read_zero_shot
from muloco.errors import UserError
from muloco.model.architecture import Flavor
from muloco.model.flavors import flavor
from muloco.resolve import completed
from muloco.runs.folder import RunFolder, missing_metrics, read_metrics
from muloco.settings.config import ResolvedConfig
from muloco.settings.fields import identity
from muloco.settings.stored import from_dict

_NO_PART = ("run.seed", "data.prepare", "checkpoint.enable")
"""Fields that a resume may not change, and that have no part in the result, but for the seed."""
_CORPUS = ("corpus", "weights", "text_field", "tokenizer", "vocabulary", "validation", "predict_bos")


@dataclass(frozen=True)
class Problem:
    """A folder that is not in the tables, or something that a reader of the tables has to know about one."""

    folder: str
    kind: str
    """One of: not a run, refused, not started, unfinished, without a summary, broken, diverged, repeated, remark."""
    reason: str

    def __post_init__(self) -> None:
        for name in ("folder", "reason"):
            object.__setattr__(self, name, _printable(getattr(self, name)))


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
    """The text that it was trained and evaluated on. The held-out losses of two runs can be compared if this is
    equal."""
    settings: Mapping[str, Any] = field(repr=False)
    """All fields of the resolved config that have a part in the result, but for the seed."""
    loss: float
    """Final held-out loss of the anchor, in nats a token."""
    own_loss: float | None
    """Mean of the held-out losses of the workers' own weights just before the last sync; None: there were no
    outer steps, or it was not logged."""
    curve: tuple[tuple[int, float], ...] = field(repr=False)
    """Held-out losses by inner step."""
    step_seconds: float | None
    """Median time of an inner step of a worker; without syncs, if metrics are logged more often than these come."""
    wall_seconds: float
    """Wall time of the whole run, from start to end."""
    bytes_sent: int
    """Bytes that a worker has sent to other workers in all syncs."""
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
        return float(self.size.flops_per_token) * self.tokens


def find_folders(paths: Iterable[Path]) -> tuple[list[Path], list[Problem]]:
    """The run folders among paths and one level below them, each once, in order. A run folder may hold other run
    folders.

    Returns:
        folders that look like runs (with config.json, summary.json or metrics), and for each path without any, the
        reason.
    """
    found: dict[Path, None] = {}
    problems = []
    for path in paths:
        try:
            runs, others = _runs_in(path)
        except OSError as error:
            reason = f"it cannot be read: {error.strerror or error}"
            if isinstance(error, FileNotFoundError):
                reason = "no such folder"
            elif isinstance(error, NotADirectoryError):
                reason = "a file"
            problems.append(Problem(str(path), "not a run", reason))
            continue
        found |= dict.fromkeys(one.resolve() for one in runs)
        if not runs:
            problems.append(Problem(str(path), "not a run", "neither it nor a folder in it has a config.json"))
        else:
            problems += [Problem(str(one), "not a run", "no config.json") for one in others]
    return list(found), problems


def _runs_in(path: Path) -> tuple[list[Path], list[Path]]:
    """The run folders among a folder and its subfolders; if it is not a run itself, also the subfolders that are not
    runs.

    Raises:
        OSError: the folder cannot be read.
    """
    below = sorted(one for one in path.iterdir() if one.is_dir())
    if _looks_like_a_run(path):
        return [path, *(one for one in below if (one / "config.json").exists() and (one / "metrics").exists())], []
    runs = [one for one in below if _looks_like_a_run(one)]
    return runs, [one for one in below if one not in runs]


def _looks_like_a_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("config.json", "summary.json", "metrics"))


def read_run(root: Path) -> tuple[Run | None, list[Problem]]:
    """Returns the finished run in a folder, or None, and remarks on it."""
    try:
        return _read(RunFolder(root))
    except KeyError as error:
        reason = f"{error} is missing in its summary or metrics"
    except OSError as error:
        reason = f"{error.filename or root} cannot be read: {error.strerror or error}"
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:  # the last three: JSON of another shape
        reason = str(error)
    return None, [Problem(str(root), "broken", reason)]


def _read(folder: RunFolder) -> tuple[Run | None, list[Problem]]:
    config = _config(folder)
    steps = config.training.steps
    lines = read_metrics(folder)
    if not folder.summary.exists():
        return None, [_without_summary(folder, lines, steps)]
    summary = _object(folder.summary)
    if summary["steps"] != steps:
        reason = f"its summary is of step {summary['steps']}, its config asks for {steps}"
        return None, [_problem(folder, "unfinished", reason)]
    zero_shot, left_out = read_zero_shot(folder, lines, steps=steps, limit=config.evaluation.limit)
    loss, own = float(summary["validation_loss"]), summary.get("local_validation_loss")
    run = Run(
        folder=folder.root,
        variant=variant(config),
        size=flavor(config.model.flavor),
        batch=config.tokens_per_step,
        steps=steps,
        seed=config.run.seed,
        corpus=_corpus(config, summary),
        settings={name: value for name, value in identity(config).items() if name not in _NO_PART},
        loss=_finite(loss),
        own_loss=_finite(own) if own is not None else None,
        curve=_curve(lines),
        step_seconds=_step_seconds(lines),
        wall_seconds=float(summary["wall_seconds"]),
        bytes_sent=int(summary["bytes_sent_per_worker"]),
        zero_shot=zero_shot,
    )
    problems = [_problem(folder, "remark", reason) for reason in left_out]
    if summary["lost_steps"]:
        problems.append(_problem(folder, "remark", f"lost {summary['lost_steps']} inner steps of workers"))
    problems += [_problem(folder, "remark", reason) for reason in missing_metrics(folder, lines, config.workers)]
    if not run.curve:
        problems.append(_problem(folder, "remark", "no held-out losses in its metrics: not among the loss curves"))
    if not math.isfinite(loss):
        problems.append(_problem(folder, "diverged", f"its final held-out loss is {loss}"))
    return run, problems


def _without_summary(folder: RunFolder, lines: Sequence[Mapping[str, Any]], steps: int) -> Problem:
    """Describes a run without a summary: it may have made all steps, the last of which is validated."""
    last = max((line["step"] for line in lines), default=0)
    makes_it = f"`muloco train {folder.config} --resume` completes it"
    if any(line["step"] == steps and "validation_loss" in line for line in lines):
        reason = f"all {steps} steps are made; there is no summary.json, so it is not in the tables"
        return _problem(folder, "without a summary", f"{reason}: {makes_it}")
    if last >= steps:
        reason = f"all {steps} steps are made, but the last one is not validated"
        return _problem(folder, "unfinished", f"{reason}: {makes_it}")
    return _problem(folder, "unfinished", f"no summary.json; metrics reach step {last} of {steps}")


def _finite(loss: float) -> float:
    """A loss as a number; NaN becomes infinite, so that it is never the best."""
    return float(loss) if math.isfinite(loss) else math.inf


def _printable(text: str) -> str:
    """The text with line breaks and other unprintable characters as escapes."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _problem(folder: RunFolder, kind: str, reason: str) -> Problem:
    return Problem(str(folder.root), kind, reason)


def _corpus(config: ResolvedConfig, summary: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Returns the corpus by name and digest; summaries that earlier versions wrote have no digest."""
    named = {name: getattr(config.data, name) for name in _CORPUS}
    if config.data.tokenizer != "embedded":
        del named["vocabulary"]
    named["sha256"] = tuple(summary.get("corpus_sha256", ()))
    return (*named.items(), ("seq_len", config.training.seq_len), ("held_out", config.validation.sequences))


def _config(folder: RunFolder) -> ResolvedConfig:
    stored = _object(folder.config)
    if "resolved" not in stored:
        raise UserError(f"{folder.config} is not the config.json of a run")
    return completed(from_dict(stored["resolved"], where=str(folder.config)), where=str(folder.config))


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"no {path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def _curve(lines: Iterable[Mapping[str, Any]]) -> tuple[tuple[int, float], ...]:
    """Returns the held-out losses by step. All workers validate the same anchor, so any worker's lines will do."""
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
