"""Resuming a run: which fields of its config may change, what that means, and whether its data is still the same."""

import copy
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muloco.data.prepare import TrainingData
from muloco.errors import UserError
from muloco.resolve import completed, resolve
from muloco.runs.checkpoint_folder import CheckpointFolder, NoWholeCheckpoint
from muloco.runs.folder import RunFolder, read_json
from muloco.settings.annotations import Mark
from muloco.settings.config import Config, ResolvedConfig
from muloco.settings.data import EMBEDDED, is_hub
from muloco.settings.fields import flatten, get_field, marks, set_field
from muloco.settings.load import load_config
from muloco.settings.stored import from_dict, to_dict
from muloco.training.schedule import inner_learning_rate

LENGTH = ("training.steps", "training.tokens", "lr_scheduler.total_steps")
"""Fields of the length of a run, which may change as well: the run is extended, or ends earlier."""
LOCATIONS = ("data.corpus", "data.tokenizer", "data.validation")
"""Fields that name data, which may change if the same content is in the new place."""


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """A run that is resumed."""

    config: ResolvedConfig
    chosen: Config
    """The values that the user has chosen, now and before."""
    ended: bool
    """Whether nothing is left to do."""
    remarks: tuple[str, ...]
    """Lines about the resume that are printed for the user."""
    content: dict[str, Any] | None
    """`content_of` the data when the run was started; None: the version that started it did not keep this."""
    moved: tuple[str, ...]
    """Names of the fields whose data is in another place now."""


def take_up(asked: Config) -> Resumption:
    """Checks that the run of a config, loaded with overrides, can be resumed with that config. It only reads.

    Raises:
        UserError: there is no such run, or the config changes a field that a resume may not change.
    """
    asked = copy.deepcopy(asked)
    if asked.run.name is None:
        raise UserError("--resume needs the name of a run; give its config.json as CONFIG, or its --run.name")
    folder = run_folder(asked)
    if not os.path.exists(folder.config):  # False also for a name that no file can have
        raise UserError(f"there is no run to resume in {folder.root}; name it with --run.name")
    try:
        stored = read_json(folder.config)
        newest, _ = CheckpointFolder(folder.checkpoint).newest()
    except (ValueError, NoWholeCheckpoint) as error:
        raise UserError(str(error)) from None
    before = completed(load_config(str(folder.config.absolute())), where=str(folder.config))
    remarks: list[str | None] = []
    same_tokenizer = Path(asked.data.tokenizer).absolute() == Path(before.data.tokenizer)
    if same_tokenizer and (named := take_own_tokenizer(asked, folder)) is not None:
        remarks.append(f"data.tokenizer {named} does not exist any more; its copy in the run folder is used")
    if newest is None:
        remarks.append("there is no checkpoint to resume from: the run starts again from step 1")
    _look_for_data(asked)
    config = _resolve(asked, begun=newest is not None)
    changed = _changes(before, asked, config)
    _refuse(changed)
    step = 0 if newest is None else newest.step
    steps = config.training.steps
    if steps < step:
        raise UserError(
            f"training.steps is {steps}, but the run has a checkpoint of step {step}; it must be at least {step}"
        )
    remarks.append(_length_remark(before, config, step))
    other = [name for name in changed if not name.startswith("run.") and name not in (*LENGTH, *LOCATIONS)]
    if other:
        remarks.append(f"changed from here on: {', '.join(changed[name] for name in other)}")
    ended, damage = _ended(folder, steps)
    return Resumption(
        config=config,
        chosen=_chosen(stored, asked, config, changed),
        ended=ended,
        remarks=tuple(remark for remark in (*remarks, damage) if remark),
        content=stored.get("data"),
        moved=tuple(name for name in LOCATIONS if name in changed),
    )


def way_on(folder: RunFolder) -> str:
    """Returns one line with the checkpoint from which an unfinished run can be resumed, and the command for it."""
    command = f"muloco train {folder.config} --resume"
    try:
        newest, _ = CheckpointFolder(folder.checkpoint).newest()
    except NoWholeCheckpoint as error:
        return str(error)
    if newest is None:
        return f"nothing was saved; this starts it again from the beginning: {command}"
    return f"the checkpoint of step {newest.step} is kept; resume with: {command}"


def run_folder(config: Config) -> RunFolder:
    """The folder of a config's run. Raises UserError if the run has no valid name."""
    return RunFolder.of(config.run.outputs, config.run.name)


def take_own_tokenizer(config: Config, folder: RunFolder) -> str | None:
    """Replaces a config's tokenizer, in place, by the copy in its run's folder if it does not exist any more, and
    returns where it was; None: nothing was replaced."""
    named = config.data.tokenizer
    if named == EMBEDDED or os.path.exists(named) or not folder.tokenizer.exists():
        return None
    config.data.tokenizer = str(folder.tokenizer.resolve())
    return named


def config_json(chosen: Config, config: ResolvedConfig, content: dict[str, Any]) -> dict[str, Any]:
    """The contents of config.json: the config as chosen and as resolved, and what identifies its data."""
    return {"chosen": to_dict(chosen), "resolved": to_dict(config), "data": content}


def content_of(data: TrainingData) -> dict[str, Any]:
    """Identifies a run's data, wherever it lies, as JSON: digests of the text, of the held-out text and of the
    tokenizer. For streamed text, the digest is that of the names and sizes of its files."""
    files = [source.identity for source in data.streamed]
    apart = data.held_out != data.prepared
    return {
        "text": [prepared.corpus_sha256 for prepared in data.prepared] or None,
        "files": hashlib.sha256(json.dumps(files).encode()).hexdigest() if files else None,
        "held out": [prepared.corpus_sha256 for prepared in data.held_out] if apart else None,
        "tokenizer": data.held_out[0].tokenizer_identity,
    }


def check_content(resumption: Resumption, content: dict[str, Any]) -> str | None:
    """Compares a run's data with that of its start.

    Returns:
        what was compared, if data is in another place now.

    Raises:
        UserError: the data is not the same.
    """
    before, data = resumption.content, resumption.config.data
    where = ", ".join(f"{name} {get_field(resumption.config, name)}" for name in resumption.moved)
    if not isinstance(before, dict):
        return f"{where}: the run has no digests of its data; workers compare their positions in it" if where else None
    for name, field, located in (
        ("text", "data.corpus", data.corpus),
        ("files", "data.corpus", data.corpus),
        ("held out", "data.validation", data.validation or data.corpus),
        ("tokenizer", "data.tokenizer", data.tokenizer),
    ):
        if name in before and before[name] != content[name]:
            what = "digest of the files' names and sizes" if name == "files" else f"digest of the {name}"
            cure = "use the Python that started it" if located == EMBEDDED else "give the path of the same data"
            raise UserError(
                f"{field} {located} is not what the run was started with ({what} {_shown(before[name])}, now "
                f"{_shown(content[name])}): {cure}, or start a new run"
            )
    compared = "; ".join(f"{name} {_shown(value)}" for name, value in content.items() if value)
    return f"{where}: the same data as at the start of the run ({compared})" if where else None


def _look_for_data(asked: Config) -> None:
    data = asked.data
    for field, names in (
        ("corpus", data.sources),
        ("validation", (data.validation or EMBEDDED,)),
        ("tokenizer", (data.tokenizer,)),
    ):
        for name in names:
            if name != EMBEDDED and not is_hub(name) and not os.path.exists(name):
                raise UserError(
                    f"data.{field} {name} does not exist any more; if the data was moved, give its new path with "
                    f"--data.{field} (its content is compared)"
                )


def _resolve(asked: Config, *, begun: bool) -> ResolvedConfig:
    """The resolved config. The initial weights need not exist any more once the run has a checkpoint."""
    initial = asked.checkpoint.initial
    if begun:
        asked.checkpoint.initial = None
    config = resolve(asked)
    if begun and initial is not None:
        asked.checkpoint.initial = config.checkpoint.initial = str(Path(initial).absolute())
    return config


def _changes(before: ResolvedConfig, asked: Config, config: ResolvedConfig) -> dict[str, str]:
    """The fields that differ, by name: `name old -> new`. A field that the run's config.json does not set, as one
    of an earlier version does not set newer fields, has not changed if it is still not set."""
    old, open_, new = flatten(before), flatten(asked), flatten(config)
    return {
        name: f"{name} {value!r} -> {new[name]!r}"
        for name, value in old.items()
        if new[name] != value and (value is not None or open_[name] is not None)
    }


def _refuse(changed: dict[str, str]) -> None:
    free = {name for name, mark in marks().items() if mark is Mark.MAY_CHANGE}.union(LENGTH, LOCATIONS)
    refused = [text for name, text in changed.items() if name not in free]
    if refused:
        raise UserError(
            f"a resume may not change these fields: {', '.join(refused)}; keep their values, or start a new run under "
            "another --run.name (from these weights with `muloco export` and --checkpoint.initial)"
        )


def _length_remark(before: ResolvedConfig, config: ResolvedConfig, step: int) -> str | None:
    was, now = before.schedule_steps, config.schedule_steps
    if (before.training.steps, was) == (config.training.steps, now):
        return None
    schedule = f"the learning rates stay on the schedule over {now} steps"
    if was != now:
        rates = [inner_learning_rate(before, max(1, step)), inner_learning_rate(config, step + 1)]
        schedule = (
            f"the learning rates follow a schedule over {now} steps, the inner one from {rates[0]:.3g} in step {step} "
            f"to {rates[1]:.3g} in step {step + 1} (--lr_scheduler.total_steps {was} keeps the old schedule)"
        )
    return f"training.steps {before.training.steps} -> {config.training.steps}: {schedule}"


def _ended(folder: RunFolder, steps: int) -> tuple[bool, str | None]:
    """Whether the run is complete and has a summary; and what is wrong with the summary."""
    if not folder.summary.exists():
        return False, None
    try:
        return read_json(folder.summary).get("steps") == steps, None
    except ValueError as error:
        return False, f"{error}; it is written again"


def _chosen(stored: dict[str, Any], asked: Config, config: ResolvedConfig, changed: dict[str, str]) -> Config:
    """The config as chosen at the start of the run, with the changes since then."""
    chosen = from_dict(stored["chosen"], where="config.json") if "chosen" in stored else asked
    for name in changed:
        if name not in LENGTH:
            set_field(chosen, name, get_field(config, name))
    if "training.steps" in changed or "training.tokens" in changed:
        chosen.training.steps, chosen.training.tokens = config.training.steps, None
    chosen.lr_scheduler.total_steps = config.lr_scheduler.total_steps
    return chosen


def _shown(value: Any) -> str:
    digests = value if isinstance(value, list) else [value]
    return ", ".join("none" if digest is None else " ".join(str(digest).split())[:16] for digest in digests)
