"""`muloco lighthouse`: run a lighthouse for workers that are started by hand."""

import argparse
import os
import sys
from typing import Annotated

from muloco.commands.parser import Commands, add_command, not_empty
from muloco.launch.lighthouse import LISTENS
from muloco.settings.annotations import Count, Positive, Range
from muloco.settings.fault_tolerance import FaultTolerance
from muloco.settings.values import option_type

USAGE = "[--host HOST] [--port PORT] [options]"
DESCRIPTION = """Run a lighthouse, at which the workers of a run meet, for workers that are started by hand; `muloco
train` starts one by itself. On a host other than loopback it accepts only workers with the secret in $MULOCO_SECRET.
Give it the same limits as in the fault_tolerance section of the config."""
HOST, PORT = "127.0.0.1", 29510


def add(commands: Commands) -> None:
    summary = "run the lighthouse for workers started by hand"
    parser = add_command(commands, "lighthouse", run, summary=summary, usage=USAGE, description=DESCRIPTION)
    parser.epilog = "docs/network.md lists the ports and explains the secret."
    meaning = f"name or address of this machine to listen on (default: {HOST})"
    parser.add_argument("--host", type=not_empty, default=HOST, help=meaning)
    type_ = option_type(Annotated[int, Range(least=0, most=2**16 - 1)])
    parser.add_argument("--port", type=type_, default=PORT, help=f"port to listen on; 0: a free one (default: {PORT})")
    for name, annotation, metavar, meaning in (
        ("min_replica_size", Count, "N", "fewest workers that can train"),
        ("heartbeat_timeout_seconds", Positive, "SECONDS", "silence after which a worker counts as dead"),
        ("straggler_timeout_seconds", Positive, "SECONDS", "how long workers wait for one that is alive but late"),
    ):
        default = getattr(FaultTolerance(), name)
        meaning += f" (default: {default:g})"
        parser.add_argument(f"--{name}", type=option_type(annotation), default=default, metavar=metavar, help=meaning)


def run(args: argparse.Namespace) -> int:
    """Serves until the process ends."""
    from muloco.outer.wire.network import is_loopback
    from muloco.training.environment import secret_in

    secret = b"" if is_loopback(args.host) else secret_in(os.environ)
    from muloco.outer.wire.lighthouse import serve

    serve(
        args.host,
        args.port,
        secret=secret,
        least=args.min_replica_size,
        heartbeat_timeout=args.heartbeat_timeout_seconds,
        straggler_timeout=args.straggler_timeout_seconds,
        tell=_tell_address,
    )
    return 0


def _tell_address(address: str) -> None:
    sys.stdout.write(f"{LISTENS}{address}\n")
    sys.stdout.flush()
