"""The runs of a sweep: their folders, for reports, and their configs, for plans."""

from collections.abc import Sequence
from pathlib import Path

from muloco.analysis.records.runs import Problem
from muloco.resolve import resolve
from muloco.settings.config import ResolvedConfig
from muloco.settings.load import find_config, load_config
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.expand import expand
from muloco.sweeps.files import find_sweep, load_sweep
from muloco.sweeps.folder import SweepFolder, default_folder
from muloco.sweeps.listing import refusals


def run_folders(path: str) -> tuple[list[Path], list[Problem]]:
    """Returns the run folders of the sweep in a file that exist, with its settings of the last `muloco sweep FILE`, and
    the jobs that have none. Raises UserError if there is no such file, or no sweep in it."""
    file = find_sweep(path)
    folder = SweepFolder(default_folder(file))
    settings = folder.settings.with_profile_beside(file)
    expansion = expand(load_sweep(file), overrides=settings.words, profile=settings.cluster(beside=folder.root))
    problems = [Problem(refused.name, "refused", refused.reason) for refused in expansion.refused]
    folders = [job.run_folder for job in expansion.jobs]
    problems += [Problem(str(run), "not started", f"a job of {file.name}") for run in folders if not run.exists()]
    return [run for run in folders if run.exists()], problems


def runs_of(path: str, words: Sequence[str]) -> tuple[list[tuple[str, ResolvedConfig]], list[str]]:
    """Returns names and resolved configs of the runs that a file describes, a config or a sweep, whatever the cluster;
    and lines that say which points of a sweep cannot be run, and why. Raises UserError if the file or the words cannot
    be used."""
    file = find_config(path)
    if b"def sweep(" not in file.read_bytes():
        return [(file.stem, resolve(load_config(path, words)))], []
    expansion = expand(load_sweep(path), overrides=words, profile=ClusterProfile())
    return [(job.name, job.resolved) for job in expansion.jobs], refusals(expansion.refused)
