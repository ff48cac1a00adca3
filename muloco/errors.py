"""The errors that end a command, and the exit status of each. Needs nothing but Python."""

import contextlib
from collections.abc import Iterator
from typing import Any

LONGEST_SHOWN = 80


class UserError(ValueError):
    """What the user has asked for cannot be done: a config, an option, data or a file cannot be used. The message is
    one line that says what was wrong, where, and what is allowed."""

    exit_status = 2


class RunFailed(RuntimeError):
    """The training has failed in a way that occurs again, however often a worker is started again. The message is one
    line that says what has happened and what can be done."""

    exit_status = 3


def shown(value: Any) -> str:
    """A value for a message, in one line of limited length."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def error_reason(error: Exception) -> str:
    """The reason of an error, without its number and without the path."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


@contextlib.contextmanager
def naming(option: str) -> Iterator[None]:
    """Within the context, errors of the file system become a UserError that names the option and the path."""
    try:
        yield
    except OSError as error:
        path = "" if error.filename is None else f" {shown(str(error.filename))}"
        raise UserError(f"{option}{path}: {error_reason(error)}") from error
