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
from muloco.settings.config import ResolvedConfig
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
    config: ResolvedConfig, folder: RunFolder, placement: Placement, number: int, stop: StopSignals, view: View
) -> Ended:
    """Runs all workers until the run is over. None of their processes is left behind. Raises KeyboardInterrupt if the
    user asks for an immediate end."""
    tail = MetricsTail(folder, config.workers)
    with secret_of_attempt(folder, os.environ) as secret:
        processes = _Processes(config, folder, placement, view, number, secret)
        lighthouse: Lighthouse | None = None
        try:
            if config.worker_processes > 1:
                lighthouse = Lighthouse(processes.start_lighthouse, placement.lighthouse.port, secret=secret)
                processes.environment[LIGHTHOUSE] = lighthouse.address
            pool = WorkerPool(
                processes.start_worker,
                workers=config.worker_processes,
                least=config.fault_tolerance.min_replica_size,
                restarts=config.fault_tolerance.restarts if config.worker_processes > 1 else 0,
            )
            watchdog = Watchdog(config.fault_tolerance.stall_timeout_seconds)
            kept = KeptFolder(folder)
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
                    return Ended(failed=pool.failures(), may_pass=pool.may_pass(), restarts=pool.restarts)
                time.sleep(POLL_SECONDS)
        finally:
            processes.end()
            if lighthouse is not None:
                lighthouse.close()


class _Processes:
    """Starts the processes of an attempt. Each is known at once, so that it is ended whatever happens."""

    def __init__(
        self, config: ResolvedConfig, folder: RunFolder, placement: Placement, view: View, attempt: int, secret: str
    ):
        self._config, self._folder, self._placement, self._view = config, folder, placement, view
        self._secret = secret
        self._children: list[Child] = []
        self.environment = {
            ATTEMPT: str(attempt),
            SECRET: secret,
            WANTED: "1",
            "RUST_LOG": os.environ.get("RUST_LOG", "warn"),
        }
        """Variables that are added to this process's environment for every worker."""

    def start_lighthouse(self, port: int) -> tuple[Child, str]:
        limits = self._config.fault_tolerance
        child, address = start_lighthouse(
            secret=self._secret,
            workers=limits.min_replica_size,
            log=self._folder.log("lighthouse"),
            host=self._placement.lighthouse,
            heartbeat_timeout=limits.heartbeat_timeout_seconds,
            join_timeout=limits.straggler_timeout_seconds,
            port=port,
        )
        self._children.append(child)
        return child, address

    def start_worker(self, worker: int) -> Child:
        host = self._placement.hosts[worker]
        # gloo by itself would look for the address of the host's name
        interface = {"GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", host.interface)}
        if host.address == LOOPBACK:  # NCCL by itself would listen on another interface
            interface["NCCL_SOCKET_IFNAME"] = os.environ.get("NCCL_SOCKET_IFNAME", host.interface)
        child = Child(
            f"worker {worker}" if self._config.worker_processes == self._config.workers else "workers",
            self._command(worker, host),
            log=self._folder.log(worker),
            environment={**self.environment, **interface, **host.environment},
            on_line=partial(self._view.log, worker),
            end_signal=signal.SIGINT,  # SIGTERM asks a worker to save a checkpoint first
        )
        self._children.append(child)
        return child

    def _command(self, worker: int, host: HostSpec) -> list[str]:
        config = self._config
        module = ["-m", "muloco"]
        if config.ranks_per_worker > 1:
            ranks = f"--nproc-per-node={config.ranks_per_worker // host.nodes}"
            signals = f"--signals-to-handle={TORCHRUN_SIGNALS}"
            torchrun = ["-m", "muloco.launch.torchrun", str(STOP_SECONDS), ranks, *_rendezvous(host), signals]
            module = torchrun + module
        overrides = {
            "replica_id": str(worker),
            "process_group": self._placement.process_group,
            "host": config.fault_tolerance.host or host.address,
        }
        words = [word for name, value in overrides.items() for word in (f"--fault_tolerance.{name}", value)]
        return [*host.start, host.python, *module, "worker", str(self._folder.config), *words]

    def end(self) -> None:
        for child in self._children:
            child.ask_to_end()
        for child in self._children:
            child.end(GRACE_SECONDS)


def _rendezvous(host: HostSpec) -> list[str]:
    """Returns torchrun's options for the rendezvous of a worker's ranks. Each node adds its own number
    (`muloco.launch.placement.node`)."""
    if host.nodes == 1:
        return ["--rdzv-backend=loopback", f"--local-addr={LOOPBACK}"]
    return [f"--nnodes={host.nodes}", f"--master-addr={host.address}", f"--master-port={host.port}"]
