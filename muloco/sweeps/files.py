"""Reading a sweep from its file: a Python file with a function `sweep()`."""

import difflib
import importlib.util
import sys
from pathlib import Path

from muloco.sweeps.sweep import Sweep
from muloco.training.load import CHECKOUT, ConfigError


def load_sweep(path: Path | str) -> Sweep:
    """The sweep in a file.

    Args:
        path: relative to the current folder or to the checkout. The file may import what lies beside it, and `config`.

    Raises:
        ConfigError: no such file, or no `sweep()` in it that returns a Sweep.
    """
    file = find_sweep(path)
    spec = importlib.util.spec_from_file_location(f"muloco_sweep_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    folders = [str(file.parent), str(CHECKOUT)]
    sys.path[:0] = folders
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "sweep", None)):
            raise ConfigError(f"{file} has no function sweep()")
        sweep = module.sweep()
    finally:
        for folder in folders:
            sys.path.remove(folder)
    if not isinstance(sweep, Sweep):
        raise ConfigError(f"sweep() in {file} returned {type(sweep).__name__}, not a muloco.sweeps.sweep.Sweep")
    return sweep


def find_sweep(path: Path | str) -> Path:
    """The file that `path` means: relative to the current folder, else to the checkout that holds this package."""
    for candidate in (Path(path), CHECKOUT / path):
        if candidate.is_file():
            return candidate.resolve()
    known = [str(file.relative_to(CHECKOUT)) for file in sorted(CHECKOUT.glob("jobs/*/*.py"))]
    nearest = difflib.get_close_matches(str(path), known, n=1, cutoff=0.3)
    hint = f"; did you mean {nearest[0]}?" if nearest else f"; sweeps: {', '.join(known) or 'none'}"
    raise ConfigError(f"there is no sweep {path}{hint}")
