"""The sbatch scripts of runs, from a template: to be read, edited and submitted without this package."""

import functools
import shlex
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from muloco.errors import UserError
from muloco.runs.folder import RunFolder
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.expand import Job
from muloco.sweeps.folder import SweepFolder
from muloco.sweeps.listing import notes
from muloco.sweeps.settings import by_option

TEMPLATE = "job.sh.jinja"


def job_script(job: Job, profile: ClusterProfile) -> str:
    """Returns the text of the script of a sweep's job, with the origins of its values. Raises UserError as
    `render_script` does."""
    return render_script(
        name=job.name,
        config=str(job.config),
        overrides=job.overrides,
        nodes=job.nodes,
        profile=profile,
        outputs=job.resolved.run.outputs,
        notes=notes(job),
    )


def write_scripts(
    jobs: Sequence[Job], folder: SweepFolder, profile: ClusterProfile
) -> tuple[list[Job], dict[str, str]]:
    """Writes the scripts of jobs into the folder of their sweep. The script of a run that is done stays as it is.
    Returns the jobs whose scripts are as they should be, and by name why others are not."""
    written, refused = [], {}
    for job in jobs:
        if RunFolder(job.run_folder).summary.exists() and folder.script(job.name).exists():
            written.append(job)
            continue
        text = job_script(job, profile)
        try:
            folder.write(job.name, text)
            written.append(job)
        except UserError as error:
            refused[job.name] = str(error)
    return written, refused


def render_script(
    *,
    name: str,
    config: str,
    overrides: Sequence[str],
    nodes: int,
    profile: ClusterProfile,
    outputs: str,
    notes: Sequence[str] = (),
) -> str:
    """The text of the script.

    Args:
        name: of the run, and of the job.
        config: file that `muloco train` reads, as seen from the folder in which sbatch is called.
        overrides: `--section.field value` words; neither run.name nor run.outputs.
        outputs: folder that holds the run's folder, on a file system that all nodes share.
        notes: comment lines about the run, such as where its values come from.

    Raises:
        UserError: the name cannot be that of a job.
    """
    if not name or any(not (c.isalnum() or c in "._-") for c in name):
        raise UserError(f"the name of a job has letters, digits, dots, dashes and underscores; got {name!r}")
    return _template().render(
        name=name,
        config=config,
        overrides=[shlex.join([option, *values]) for option, values in by_option(overrides).items()],
        nodes=nodes,
        profile=profile,
        run=f"{outputs.rstrip('/') or '/'}/{name}",
        outputs=outputs,
        notes=[line for note in notes for line in note.splitlines()],
    )


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("muloco.sweeps"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["quote"] = shlex.quote
    return environment.get_template(TEMPLATE)
