"""The errors that end a command, and the exit status of each. Needs nothing but Python."""


class UserError(ValueError):
    """What the user has asked for cannot be done: a config, an option, data or a file cannot be used. The message is
    one line that says what was wrong, where, and what is allowed."""

    exit_status = 2


class RunFailed(RuntimeError):
    """The training has failed in a way that occurs again, however often a worker is started again. The message is one
    line that says what has happened and what can be done."""

    exit_status = 3
