"""Reading a sweep from its file: a Python file with a function `sweep()`."""

from pathlib import Path

from muloco.errors import UserError, naming
from muloco.settings.load import SHIPPED, run_file
from muloco.suggest import did_you_mean
from muloco.sweeps.sweep import Sweep


def load_sweep(path: Path | str) -> Sweep:
    """The sweep in a file.

    Args:
        path: relative to the current folder, or a shipped sweep such as `jobs/muloco_paper/15B.py`. The file may import
            modules next to it.

    Raises:
        UserError: there is no such file, or it has no `sweep()` that returns a Sweep.
    """
    file = find_sweep(path)
    module, sweep = run_file(file, "sweep")
    if not callable(getattr(module, "sweep", None)):
        hint = "; it is a config, for `muloco train`" if hasattr(module, "config") else ""
        raise UserError(f"{file} has no function sweep(){hint}")
    if not isinstance(sweep, Sweep):
        raise UserError(f"sweep() in {file} returned {type(sweep).__name__}, not a muloco.sweeps.sweep.Sweep")
    return sweep


def find_sweep(path: Path | str) -> Path:
    """The file that `path` means: relative to the current folder, or one that muloco ships."""
    for candidate in (Path(path), SHIPPED / path):
        with naming("FILE"):
            if candidate.is_file():
                return candidate.resolve()
    known = [str(file.relative_to(SHIPPED)) for file in sorted(SHIPPED.glob("jobs/*/*.py"))]
    hint = did_you_mean(str(path), known) or f"the sweeps of muloco are in {SHIPPED / 'jobs'}"
    raise UserError(f"there is no sweep {path}; {hint}")
