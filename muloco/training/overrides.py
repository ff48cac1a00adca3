"""What a command line says about fields that it does not name. Needs nothing but Python."""

from collections.abc import Iterable
from pathlib import Path

from muloco.training.config import Config


def settle_length(config: Config, words: Iterable[str]) -> None:
    """Of training.steps and training.tokens, where one is given on a command line, the other is derived from it.

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
    """The run of a config.json lies where that file is found, whatever it was called when it was started.

    Args:
        config: as loaded from the file, with the words applied; changed in place.
        file: absolute; any other file than a config.json says nothing.
        words: of the command line; what they say of the folder counts.
    """
    if file.name != "config.json":
        return
    named = {word.split("=", 1)[0] for word in words}
    outputs, here = file.parent.parent, Path.cwd()
    if "--run.name" not in named:
        config.run.name = file.parent.name
    if "--run.outputs" not in named:
        config.run.outputs = str(outputs.relative_to(here) if outputs.is_relative_to(here) else outputs)
