"""The errors that end a command or a worker, and the exit status of each. Needs nothing but Python.

The supervisor knows by a worker's exit status whether to start it again:

    0  done
    1  a failure that may pass, such as a lost connection: the worker is started again
    2  `UserError`: what the user asked for cannot be done
    3  `RunFailed`, or a mistake in the program: it would occur again
    4  `AttemptFailed`: starting the worker again does not help, but resuming the run from a checkpoint may

The commands end with these statuses as well (`muloco.cli`). `muloco train` ends with 75 where the run can be resumed,
with 130 after Ctrl-C, and with 128 and its number after another signal (docs/checkpoints.md, "Stopping").
"""

import contextlib
from collections.abc import Iterator
from typing import Any

FAILED = 1
"""Exit status of a failure that may pass."""
LONGEST_SHOWN = 80


class UserError(ValueError):
    """The user has asked for something that cannot be done: a config, an option or a file is of no use. The message is
    one line that says what was wrong, where, and what is allowed."""

    exit_status = 2


class RunFailed(RuntimeError):
    """The run has failed in a way that occurs again, however often a worker or the run is started again."""

    exit_status = 3


class AttemptFailed(RuntimeError):
    """The attempt at a run has failed: a worker that is started again cannot join it, but the run may be resumed from
    its newest checkpoint."""

    exit_status = 4


_MISTAKES = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NameError,
    AssertionError,
    NotImplementedError,
    ImportError,
    SyntaxError,
    FileNotFoundError,
    PermissionError,
)
"""Errors of a program or of the machine that it runs on, which occur again."""
LASTING = (UserError.exit_status, RunFailed.exit_status)
"""Exit statuses of failures that would also end another attempt at the run."""


def exit_status(error: BaseException) -> int:
    """Returns the exit status of a worker that an error has ended."""
    if isinstance(error, UserError | RunFailed | AttemptFailed):
        return error.exit_status
    return RunFailed.exit_status if isinstance(error, _MISTAKES) else FAILED


def rank_ends(rank: int, status: int, reason: str) -> str:
    """The line by which one of several ranks says why it ends. The supervisor tells by it the cause from what other
    ranks fail with as a consequence."""
    return f"muloco: rank {rank} ends with status {status}: {' '.join(reason.split())}\n"


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
