"""The run folders of a sweep, for those who report on it."""

from pathlib import Path

from muloco.analysis.report.runs import Problem
from muloco.sweeps.command import GENERATED, PROFILE
from muloco.sweeps.expand import expand
from muloco.sweeps.files import find_sweep, load_sweep
from muloco.sweeps.folder import SweepFolder
from muloco.sweeps.settings import Settings


def run_folders(path: str) -> tuple[list[Path], list[Problem]]:
    """The run folders of the sweep in a file that are there, with its settings of the last `muloco sweep FILE`.

    Returns:
        the folders, and the jobs that have none.

    Raises:
        ConfigError: no such file, or no sweep in it.
    """
    file = find_sweep(path)
    folder = SweepFolder(file.parent / GENERATED / file.stem)
    beside = file.parent / PROFILE
    settings = Settings(profile=str(beside)).updated(folder.settings) if beside.is_file() else folder.settings
    found = expand(load_sweep(file), overrides=settings.words, profile=settings.cluster(beside=folder.root))
    problems = [Problem(refused.name, "refused", refused.reason) for refused in found.refused]
    folders = [job.run_folder for job in found.jobs]
    problems += [Problem(str(one), "not started", f"a job of {file.name}") for one in folders if not one.exists()]
    return [one for one in folders if one.exists()], problems
