"""Checks of the files that a command is told to write. A path that cannot be written gives one line with the option."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from muloco.errors import UserError

PICTURES = (".png", ".svg")
"""File endings of the pictures that can be drawn."""


def check_folder(option: str, folder: Path) -> None:
    """Raises UserError if nothing can be written into a folder, which need not exist yet. To be called before
    any work for its contents."""
    with writing(option, folder):
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not existing.is_dir():
            raise UserError(f"{option}: {existing} is not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"{option}: {existing} cannot be written to: it is read-only, or belongs to another user")


def check_picture(option: str, picture: Path) -> None:
    """Raises UserError if a picture cannot be written there because of its ending or its folder."""
    if picture.suffix.lower() not in PICTURES:
        raise UserError(f"{option} must end in {' or '.join(PICTURES)}; got {picture}")
    if picture.is_dir():
        raise UserError(f"{option}: {picture} is a folder")
    check_folder(option, picture.parent)


@contextlib.contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Within the context, errors of the file system become a UserError that names the option and the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{option}: {error.filename or path} cannot be written: {reason}") from error
