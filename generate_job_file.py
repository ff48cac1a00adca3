#!/usr/bin/env python
"""The job script of one run, for SLURM.

    python generate_job_file.py --config-file CONFIG [--job-name NAME] [--output-file FILE] [--section.field value ...]

Without --output-file it goes to standard output. Nodes follow from the workers, their ranks and the GPUs of a node.
Give the training text by --data.corpus and --data.tokenizer; the default is the embedded corpus of a few MB. For many
runs: `muloco sweep` (docs/sweeps.md).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from muloco.commands.cluster_options import add_profile_options, given_options
from muloco.errors import UserError
from muloco.sweeps.expand import expand
from muloco.sweeps.listing import warnings
from muloco.sweeps.script import job_script
from muloco.sweeps.settings import Settings
from muloco.sweeps.sweep import Grid, Sweep

GONE = {
    "--extra-args": "give --section.field value words instead",
    "--use-ddp": "the config says it: config/ddp/*.py have no outer steps",
    "--num-ft-replicas-per-node": "follows from fault_tolerance.group_size and parallelism.*",
    "--nodes-per-replica": "follows from parallelism.* and --gpus-per-node",
    "--ntasks-per-node": "one task a node starts all that runs there",
    "--mem": "it is --memory",
    "--mail-user": "it is --mail",
    "--mail-type": "mail comes when a job ends, fails or queues up again",
    "--output": "--log-folder holds NAME-JOB.out",
    "--error": "--log-folder holds NAME-JOB.out, errors included",
}
"""Options of the paper's script that are not needed any more, and why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; exit status 2 where it cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config-file", "--config_file", required=True, metavar="CONFIG", help="a config or config.json"
    )
    parser.add_argument("--job-name", "--job_name", metavar="NAME", help="default: that of the config file")
    parser.add_argument("--output-file", "--output_file", metavar="FILE", help="default: standard output")
    add_profile_options(parser)
    command, words = parser.parse_known_args(argv)
    try:
        for word in words:
            if (reason := GONE.get(word.split("=", 1)[0])) is not None:
                raise UserError(f"{word.split('=', 1)[0]} is not needed any more: {reason}")
        text = _script(command, words)
        if command.output_file is None:
            sys.stdout.write(text)
        else:
            _write(Path(command.output_file), text)
    except UserError as error:
        sys.stderr.write(f"generate_job_file: {error}\n")
        return 2
    return 0


def _script(command: argparse.Namespace, words: Sequence[str]) -> str:
    profile = Settings(profile=command.profile, options=given_options(command)).cluster(beside=Path.cwd())
    name = command.job_name or Path(command.config_file).stem
    found = expand(Sweep(Grid(name=name, config=command.config_file, points=[{}])), overrides=words, profile=profile)
    if found.refused:
        raise UserError(found.refused[0].reason)
    (job,) = found.jobs
    for line in warnings(found.jobs, profile):
        sys.stderr.write(f"generate_job_file: {line}\n")
    return job_script(job, profile)


def _write(file: Path, text: str) -> None:
    if file.exists() and file.read_text() != text:
        raise UserError(f"{file} is there already and differs; delete it or choose another --output-file")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main())
