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
_SIGNS = ("config.json", "summary.json", "metrics")
"""Files and folders by which a folder looks like a run."""
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
    folders: dict[Path, None] = {}
    problems = []
    for path in paths:
        try:
            runs, others = _runs_in(path)
            reason = "" if runs else "neither it nor a folder in it has a config.json"
        except FileNotFoundError:
            reason = "no such folder"
        except NotADirectoryError:
            reason = "a file"
        except OSError as error:
            reason = f"it cannot be read: {error.strerror or error}"
        if reason:
            problems.append(Problem(str(path), "not a run", reason))
        else:
            folders |= dict.fromkeys(run.resolve() for run in runs)
            problems += [Problem(str(other), "not a run", "no config.json") for other in others]
    return list(folders), problems


def _runs_in(path: Path) -> tuple[list[Path], list[Path]]:
    """The run folders among a folder and its subfolders; if it is not a run itself, also the subfolders that are not
    runs.

    Raises:
        OSError: the folder cannot be read.
    """

    def has(folder: Path, *names: str) -> list[bool]:
        return [(folder / name).exists() for name in names]

    below = sorted(folder for folder in path.iterdir() if folder.is_dir())
    if any(has(path, *_SIGNS)):
        return [path, *(folder for folder in below if all(has(folder, "config.json", "metrics")))], []
    runs = [folder for folder in below if any(has(folder, *_SIGNS))]
    return runs, [folder for folder in below if folder not in runs]


def read_config(folder: RunFolder) -> ResolvedConfig:
    """The resolved config of a run.

    Raises:
        ValueError, TypeError, AttributeError: it is not the config of a run.
    """
    stored = _object(folder.config)
    if "resolved" not in stored:
        raise UserError(f"{folder.config} is not the config.json of a run")
    return completed(from_dict(stored["resolved"], where=str(folder.config)), where=str(folder.config))


def read_run(root: Path) -> tuple[Run | None, list[Problem]]:
    """Returns the finished run in a folder, or None, and remarks on it."""
    try:
        run, remarks = _read(RunFolder(root))
        return run, [Problem(str(root), kind, reason) for kind, reason in remarks]
    except KeyError as error:
        reason = f"{error} is missing in its summary or metrics"
    except OSError as error:
        reason = f"{error.filename or root} cannot be read: {error.strerror or error}"
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:  # the last three: JSON of another shape
        reason = str(error)
    return None, [Problem(str(root), "broken", reason)]


def _read(folder: RunFolder) -> tuple[Run | None, list[tuple[str, str]]]:
    """The run, and remarks on it as kinds and reasons of problems."""
    config = read_config(folder)
    steps = config.training.steps
    lines = read_metrics(folder)
    if not folder.summary.exists():
        return None, [_without_summary(folder, lines, steps)]
    summary = _object(folder.summary)
    if summary["steps"] != steps:
        reason = f"its summary is of step {summary['steps']}, its config asks for {steps}"
        return None, [("unfinished", reason)]
    zero_shot, left_out = read_zero_shot(folder, lines, steps=steps, limit=config.evaluation.limit)
    loss, own = float(summary["validation_loss"]), summary.get("local_validation_loss")
    curve = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}  # of the same anchor
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
        curve=tuple(sorted(curve.items())),
        step_seconds=_step_seconds(lines),
        wall_seconds=float(summary["wall_seconds"]),
        bytes_sent=int(summary["bytes_sent_per_worker"]),
        zero_shot=zero_shot,
    )
    remarks = list(left_out)
    if summary["lost_steps"]:
        remarks.append(f"lost {summary['lost_steps']} inner steps of workers")
    remarks += missing_metrics(folder, lines, config.workers)
    if not run.curve:
        remarks.append("no held-out losses in its metrics: not among the loss curves")
    diverged = [] if math.isfinite(loss) else [("diverged", f"its final held-out loss is {loss}")]
    return run, [*(("remark", remark) for remark in remarks), *diverged]


def _without_summary(folder: RunFolder, lines: Sequence[Mapping[str, Any]], steps: int) -> tuple[str, str]:
    """Describes a run without a summary: it may have made all steps, the last of which is validated."""
    last = max((line["step"] for line in lines), default=0)
    makes_it = f"`muloco train {folder.config} --resume` completes it"
    if any(line["step"] == steps and "validation_loss" in line for line in lines):
        reason = f"all {steps} steps are made; there is no summary.json, so it is not in the tables"
        return "without a summary", f"{reason}: {makes_it}"
    if last >= steps:
        reason = f"all {steps} steps are made, but the last one is not validated"
        return "unfinished", f"{reason}: {makes_it}"
    return "unfinished", f"no summary.json; metrics reach step {last} of {steps}"


def _finite(loss: float) -> float:
    """A loss as a number; NaN becomes infinite, so that it is never the best."""
    return float(loss) if math.isfinite(loss) else math.inf


def _printable(text: str) -> str:
    """The text with line breaks and other unprintable characters as escapes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _corpus(config: ResolvedConfig, summary: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Returns the corpus by name and digest; summaries that earlier versions wrote have no digest."""
    named = {name: getattr(config.data, name) for name in _CORPUS}
    if config.data.tokenizer != "embedded":
        del named["vocabulary"]
    named["sha256"] = tuple(summary.get("corpus_sha256", ()))
    return (*named.items(), ("seq_len", config.training.seq_len), ("held_out", config.validation.sequences))


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


def _step_seconds(lines: Iterable[Mapping[str, Any]]) -> float | None:
    """Computed from the rates in training lines: tokens since the line before, over tokens a second, over steps."""
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
