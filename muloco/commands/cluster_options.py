"""Options about the cluster, for the commands that write job scripts: `muloco sweep` and generate_job_file.py."""

import argparse
from collections.abc import Mapping

OPTIONS: Mapping[str, tuple[str, str]] = {
    "partition": ("NAME", "SLURM partition"),
    "account": ("NAME", "account to charge"),
    "qos": ("NAME", "quality of service"),
    "time": ("TIME", "time limit of a job, such as 24:00:00; then it is queued again and continues"),
    "memory": ("SIZE", "memory of a node, such as 500G; 0: all of it"),
    "nodes": ("N", "number of nodes of a job (default: as many as its workers need)"),
    "gpus_per_node": ("N", "number of GPUs of a node"),
    "cpus_per_node": ("N", "number of CPUs of a node; 0: the whole node, for each job alone"),
    "mail": ("ADDRESS", "address to write to when a job ends"),
    "log_folder": ("DIR", "folder for the output of jobs"),
    "node_limit": (
        "N",
        "most nodes that all your jobs in the partition may use or wait for together (default: 16, or as "
        "many as the largest job needs)",
    ),
}
"""Fields of the cluster profile that the command line can set: each is an option, with its metavar and its help."""


def add_profile_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--profile` and an option for each of `OPTIONS`. Underscores are allowed in place of the dashes."""
    parser.add_argument("--profile", metavar="FILE", help="cluster profile, such as jobs/cluster.toml.example")
    for name, (metavar, meaning) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar=metavar, help=meaning)
        if "_" in name:
            parser.add_argument(f"--{name}", dest=name, help=argparse.SUPPRESS)


def given_options(args: argparse.Namespace) -> dict[str, str]:
    """Returns those of `OPTIONS` that are on the command line."""
    return {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
