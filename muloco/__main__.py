"""`muloco` and `python -m muloco`: the command line, or an error that names the missing package."""

import gc
import os
import sys

GARBAGE_THRESHOLD = 100_000
"""Objects that are made before Python looks for garbage. Imports make several 100,000 and no garbage; with Python's
default of 700, a worker spends a fifth of its start on looking for it."""


def main() -> int:
    """Runs the command line of `muloco.cli`; exit status 2 where the packages that it needs are not installed."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    _open_closed_streams()
    try:
        from muloco.cli import main

        return main()  # commands import what they need
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "muloco":
            raise
        sys.stderr.write(f"muloco: the package {error.name} is missing; install it with: pip install 'muloco[train]'\n")
        return 2


def _open_closed_streams() -> None:
    """Opens the null device for each of stdin, stdout and stderr that is closed, as a daemon's may be.

    Python sets such a stream to None. Its number would be that of the next file that is opened, which child processes
    would then take for their output; so this comes before any other file is opened.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    raise SystemExit(main())
