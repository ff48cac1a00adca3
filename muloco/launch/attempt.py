"""One attempt at a run: starts the lighthouse and all workers, watches them until the run is over, and ends them."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from muloco.launch.kept_folder import KeptFolder
from muloco.launch.lighthouse import Lighthouse, start_lighthouse
from muloco.launch.live import View
from muloco.launch.placement.spec import LOOPBACK, HostSpec, Placement
from muloco.launch.pool import WorkerPool
from muloco.launch.processes import Child
from muloco.launch.secret import secret_of_attempt
from muloco.launch.stop_signals import StopSignals
from muloco.launch.watchdog import Watchdog
from muloco.runs.folder import MetricsTail, RunFolder
from muloco.settings.config import Config
from muloco.training.environment import ATTEMPT, LIGHTHOUSE, SECRET
from muloco.training.pulse import WANTED

POLL_SECONDS = 0.25
GRACE_SECONDS = 10.0
"""Seconds between asking a worker to end and killing it."""
TORCHRUN_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
"""Signals that torchrun passes on to the ranks: its own ones, SIGUSR1 (stop) and SIGUSR2 (show the stacks)."""
STOP_SECONDS = 3600
"""Seconds that torchrun then waits for the ranks to reach a sync and save a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of an attempt."""

    failed: Sequence[Child]
    """The processes that made it fail; empty if it did not fail."""
    may_pass: bool
    """Whether another attempt may succeed, if it failed."""
    restarts: int
    """Number of restarts of workers."""


def run_attempt(
    config: Config, folder: RunFolder, placement: Placement, number: int, stop: StopSignals, view: View
) -> Ended:
    """Runs all workers until the run is over. None of their processes is left behind.

    Args:
        config: resolved.
        folder: of the run, with its config.json.
        placement: where lighthouse and workers run.
        number: of the attempt, from 1.
        stop: the signals that ask for a stop.
        view: shows the workers.

    Raises:
        KeyboardInterrupt: the user asked for an immediate end.
    """
    tail = MetricsTail(folder, config.workers)
    children: list[Child] = []
    lighthouse: Lighthouse | None = None
    with secret_of_attempt(folder, os.environ) as secret:
        try:
            environment = _environment(number, secret)
            if config.worker_processes > 1:
                start = partial(_start_lighthouse, config, folder, placement.lighthouse, children, secret)
                lighthouse = Lighthouse(start, placement.lighthouse.port, secret=secret)
                environment[LIGHTHOUSE] = lighthouse.address
            pool = WorkerPool(
                lambda worker: _start_worker(config, folder, placement, environment, view, children, worker),
                workers=config.worker_processes,
                least=config.fault_tolerance.min_replica_size,
                restarts=config.fault_tolerance.restarts if config.worker_processes > 1 else 0,
            )
            watchdog = Watchdog(config.fault_tolerance.stall_timeout_seconds)
            return _watch(pool, watchdog, lighthouse, stop, KeptFolder(folder), tail, view)
        finally:
            for child in children:
                child.ask_to_end()
            for child in children:
                child.end(GRACE_SECONDS)
            if lighthouse is not None:
                lighthouse.close()


def _watch(
    pool: WorkerPool,
    watchdog: Watchdog,
    lighthouse: Lighthouse | None,
    stop: StopSignals,
    kept: KeptFolder,
    tail: MetricsTail,
    view: View,
) -> Ended:
    """Waits for the end of the attempt."""
    while True:
        lines = list(tail.new_lines())
        pool.take_note(lines)
        view.update(lines, pool.away())
        if lighthouse is not None and not lighthouse.keep_alive():
            return Ended(failed=[lighthouse.child], may_pass=True, restarts=pool.restarts)
        if stop.received is not None:
            pool.stop()
        watchdog.look(pool.children)
        kept.watch()
        if pool.watch():
            view.update(tail.new_lines(), pool.away())
            failed = pool.failures()
            return Ended(failed=failed, may_pass=pool.may_pass(), restarts=pool.restarts)
        time.sleep(POLL_SECONDS)


def _environment(attempt: int, secret: str) -> dict[str, str]:
    """Returns the variables that are added to this process's environment for every worker."""
    return {
        ATTEMPT: str(attempt),
        SECRET: secret,
        WANTED: "1",
        "RUST_LOG": os.environ.get("RUST_LOG", "warn"),
    }


def _start_lighthouse(
    config: Config, folder: RunFolder, host: HostSpec, children: list[Child], secret: str, port: int
) -> tuple[Child, str]:
    child, address = start_lighthouse(
        secret=secret,
        workers=config.fault_tolerance.min_replica_size,
        log=folder.log("lighthouse"),
        host=host,
        heartbeat_timeout=config.fault_tolerance.heartbeat_timeout_seconds,
        join_timeout=config.fault_tolerance.straggler_timeout_seconds,
        port=port,
    )
    children.append(child)
    return child, address


def _start_worker(
    config: Config,
    folder: RunFolder,
    placement: Placement,
    environment: dict[str, str],
    view: View,
    children: list[Child],
    worker: int,
) -> Child:
    """Starts a worker's process and adds it to `children` at once, so that it is ended whatever happens."""
    host = placement.hosts[worker]
    # gloo by itself would look for the address of the host's name
    interface = {"GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", host.interface)}
    if host.address == LOOPBACK:  # NCCL by itself would listen on another interface
        interface["NCCL_SOCKET_IFNAME"] = os.environ.get("NCCL_SOCKET_IFNAME", host.interface)
    child = Child(
        f"worker {worker}" if config.worker_processes == config.workers else "workers",
        _worker_command(config, folder, worker, host, placement.process_group),
        log=folder.log(worker),
        environment={**environment, **interface, **placement.environments[worker]},
        on_line=partial(view.log, worker),
        end_signal=signal.SIGINT,  # SIGTERM asks a worker to save a checkpoint first
    )
    children.append(child)
    return child


def _worker_command(config: Config, folder: RunFolder, worker: int, host: HostSpec, process_group: str) -> list[str]:
    module = ["-m", "muloco"]
    if config.ranks_per_worker > 1:
        module = [
            *("-m", "muloco.launch.torchrun", str(STOP_SECONDS)),
            f"--nproc-per-node={config.ranks_per_worker // host.nodes}",
            *_rendezvous(host),
            f"--signals-to-handle={TORCHRUN_SIGNALS}",
            *module,
        ]
    overrides = [
        *("--fault_tolerance.replica_id", str(worker)),
        *("--fault_tolerance.process_group", process_group),
        *("--fault_tolerance.host", config.fault_tolerance.host or host.address),
    ]
    return [*host.start, host.python, *module, "worker", str(folder.config), *overrides]


def _rendezvous(host: HostSpec) -> list[str]:
    """Returns torchrun's options for the rendezvous of a worker's ranks. Each node adds its own number
    (`muloco.launch.placement.node`)."""
    if host.nodes == 1:
        return ["--rdzv-backend=loopback", f"--local-addr={LOOPBACK}"]
    return [f"--nnodes={host.nodes}", f"--master-addr={host.address}", f"--master-port={host.port}"]
