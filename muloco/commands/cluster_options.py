"""Options about the cluster, for the commands that write job scripts: `muloco sweep` and generate_job_file.py."""

import argparse
from collections.abc import Mapping

OPTIONS: Mapping[str, str] = {
    "partition": "partition of SLURM",
    "account": "account to charge",
    "qos": "quality of service",
    "time": "time limit of a job, such as 24:00:00; then it is queued again and continues",
    "memory": "memory of a node, such as 500G; 0: all of it",
    "nodes": "nodes of a job (default: as many as its workers need)",
    "gpus_per_node": "GPUs of a node",
    "cpus_per_node": "CPUs of a node; 0: the whole node, for each job alone",
    "mail": "address to write to when a job ends",
    "log_folder": "where the output of jobs goes",
    "node_limit": "most nodes that all your jobs in the partition may use or wait for together "
    "(default: 16, or as many as the largest job needs)",
}
"""Fields of the cluster profile that the command line can set: each is an option, with its help."""


def add_profile_options(parser: argparse.ArgumentParser) -> None:
    """`--profile` and an option for each of `OPTIONS`, spelled with dashes or underscores."""
    parser.add_argument("--profile", metavar="FILE", help="cluster profile, such as jobs/cluster.toml.example")
    for name, help_ in OPTIONS.items():
        spellings = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        parser.add_argument(*spellings, dest=name, metavar=name.rsplit("_", 1)[-1].upper(), help=help_)


def given_options(args: argparse.Namespace) -> dict[str, str]:
    """Returns those of `OPTIONS` that are on the command line."""
    return {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
