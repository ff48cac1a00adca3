"""Files that a command writes where its user says. What cannot be written is refused in one line with the option."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from muloco.training.load import ConfigError

PICTURES = (".png", ".svg")
"""Endings of pictures that are drawn."""


def check_folder(option: str, folder: Path) -> None:
    """Raises ConfigError if nothing can be written into a folder, which need not exist yet. To be called before any
    work is done for what goes there."""
    with writing(option, folder):
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not existing.is_dir():
            raise ConfigError(f"{option}: {existing} is not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise ConfigError(f"{option}: {existing} cannot be written to: it is read-only, or belongs to another user")


def check_picture(option: str, picture: Path) -> None:
    """Raises ConfigError if a picture cannot be written there: for its ending, or for its folder."""
    if picture.suffix.lower() not in PICTURES:
        raise ConfigError(f"{option} writes {' or '.join(PICTURES)}; got {picture}")
    if picture.is_dir():
        raise ConfigError(f"{option}: {picture} is a folder")
    check_folder(option, picture.parent)


@contextlib.contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Within the context what the file system refuses is a ConfigError that names the option and the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{option}: {error.filename or path} cannot be written: {reason}") from error
