"""The folder that an export makes, completely or not at all; nothing is overwritten."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from muloco.errors import UserError
from muloco.files import whole_folder


def check_target(folder: Path) -> None:
    """Raises UserError unless a folder can be made there, as far as this is known in advance."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists and is not an empty folder; nothing is overwritten")
    except OSError as error:
        raise UserError(f"DIR {folder} cannot be written: {error.strerror}") from error


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    """A context with a draft folder, which becomes `folder` at the end. Raises UserError if that exists already, or
    cannot be written."""
    check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as draft:
            yield draft
    except (OSError, SafetensorError) as error:
        raise UserError(f"DIR {folder} cannot be written: {getattr(error, 'strerror', None) or error}") from error
