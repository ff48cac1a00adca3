"""`muloco` and `python -m muloco`: the command line, or an error that names the missing package."""

import sys


def main() -> int:
    """Runs the command line of `muloco.cli`; exit status 2 where the packages that it needs are not installed."""
    try:
        from muloco.cli import main

        return main()  # commands import what they need
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "muloco":
            raise
        sys.stderr.write(f"muloco: the package {error.name} is missing; install it with: pip install 'muloco[train]'\n")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
