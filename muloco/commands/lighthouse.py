"""`muloco lighthouse`: run a lighthouse for workers that are started by hand."""

import argparse
import math
import os
import sys

from muloco.commands.parser import Commands, add_command, not_empty
from muloco.errors import UserError
from muloco.launch.lighthouse import LISTENS
from muloco.settings.fault_tolerance import FaultTolerance
from muloco.settings.values import whole_number

DESCRIPTION = """Run a lighthouse, at which the workers of a run meet, for workers that are started by hand; `muloco
train` starts one by itself. On a host other than loopback it accepts only workers with the secret in $MULOCO_SECRET.
Give it the same limits as in the fault_tolerance section of the config."""
HOST, PORT = "127.0.0.1", 29510


def add(commands: Commands) -> None:
    limits = FaultTolerance()
    parser = add_command(
        commands,
        "lighthouse",
        run,
        summary="run the lighthouse for workers started by hand",
        description=DESCRIPTION,
        usage="muloco lighthouse [--host HOST] [--port PORT] [options]",
        epilog="docs/network.md lists the ports and explains the secret.",
    )
    parser.add_argument(
        "--host", type=not_empty, default=HOST, help=f"name or address of this machine to listen on (default: {HOST})"
    )
    parser.add_argument(
        "--port", type=whole_number, default=PORT, help=f"port to listen on; 0: a free one (default: {PORT})"
    )
    for name, type_, metavar, meaning in (
        ("min_replica_size", whole_number, "N", "fewest workers that can train"),
        ("heartbeat_timeout_seconds", float, "SECONDS", "silence after which a worker counts as dead"),
        ("straggler_timeout_seconds", float, "SECONDS", "how long workers wait for one that is alive but late"),
    ):
        default = getattr(limits, name)
        parser.add_argument(
            f"--{name}", type=type_, default=default, metavar=metavar, help=f"{meaning} (default: {default:g})"
        )


def run(args: argparse.Namespace) -> int:
    """Serves until the process ends."""
    if not 0 <= args.port < 2**16:
        raise UserError(f"--port must be from 0 to {2**16 - 1}; got {args.port}")
    for name in ("min_replica_size", "heartbeat_timeout_seconds", "straggler_timeout_seconds"):
        if not 0 < (value := getattr(args, name)) < math.inf:
            raise UserError(f"--{name} must be above 0; got {value}")
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
