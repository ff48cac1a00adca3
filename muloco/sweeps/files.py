"""Reading a sweep from its file: a Python file with a function `sweep()`."""

import importlib.util
import sys
from pathlib import Path

from muloco.errors import UserError, naming
from muloco.settings.load import SHIPPED, failure_in
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
    spec = importlib.util.spec_from_file_location(f"muloco_sweep_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(file.parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "sweep", None)):
            hint = "; it is a config, for `muloco train`" if hasattr(module, "config") else ""
            raise UserError(f"{file} has no function sweep(){hint}")
        sweep = module.sweep()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a sweep is a program of the user's: it may raise anything
        raise UserError(failure_in(file, error)) from error
    finally:
        sys.path.remove(folder)
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
