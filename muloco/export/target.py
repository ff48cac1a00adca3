"""The folder that an export makes, completely or not at all; nothing is overwritten. Needs nothing but Python."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from muloco.errors import UserError


def check_target(folder: Path) -> None:
    """Raises UserError unless a folder can be made there, as far as this is known in advance."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists and is not an empty folder; nothing is overwritten")
    except OSError as error:
        raise UserError(f"DIR {folder} cannot be written: {error.strerror}") from error


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    """A context with a draft folder, which becomes `folder` at the end.

    Raises:
        UserError: the folder exists already, or cannot be written.
    """
    check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            draft = Path(scratch) / "draft"
            draft.mkdir()
            yield draft
            draft.rename(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"DIR {folder} cannot be written: {getattr(error, 'strerror', None) or error}") from error
