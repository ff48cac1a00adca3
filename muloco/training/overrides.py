"""Fields that change because of others on the command line. Needs nothing but Python."""

from collections.abc import Iterable
from pathlib import Path

from muloco.training.config import Config


def settle_length(config: Config, words: Iterable[str]) -> None:
    """Lets the one of training.steps and training.tokens that is on the command line decide; the other is derived from
    it.

    Args:
        config: with the words applied; changed in place.
        words: of the command line, `--section.field value`.
    """
    named = {word.split("=", 1)[0] for word in words}
    steps, tokens = "--training.steps" in named, "--training.tokens" in named
    if steps and not tokens and config.training.steps is not None:
        config.training.tokens = None
    if tokens and not steps and config.training.tokens is not None:
        config.training.steps = None


def locate(config: Config, file: Path, words: Iterable[str]) -> None:
    """Sets the run's folder to that of its config.json, even if the folder has been renamed or moved.

    Args:
        config: as loaded from the file, with the words applied; changed in place.
        file: absolute path; any other file than a config.json changes nothing.
        words: of the command line; a folder that they name has precedence.
    """
    if file.name != "config.json":
        return
    named = {word.split("=", 1)[0] for word in words}
    outputs, here = file.parent.parent, Path.cwd()
    if "--run.name" not in named:
        config.run.name = file.parent.name
    if "--run.outputs" not in named:
        config.run.outputs = str(outputs.relative_to(here) if outputs.is_relative_to(here) else outputs)
