"""The supervisor of a run, here or over the nodes of a SLURM job: starts all, watches it, ends it, sums it up."""

import logging
import os
import signal
import time
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from muloco.launch.allocation import current_allocation
from muloco.launch.claim import Claim, only_supervisor, taken
from muloco.launch.crew import Crew
from muloco.launch.devices import place
from muloco.launch.lighthouse import Lighthouse, start_lighthouse
from muloco.launch.live import View
from muloco.launch.placement import LOOPBACK, Placement, Station
from muloco.launch.processes import Child
from muloco.launch.secret import secret_of_attempt
from muloco.launch.slurm import place_in
from muloco.launch.stop_signals import StopSignals
from muloco.launch.summary import (
    how_it_stopped,
    newest_checkpoint,
    reached_end,
    seconds_before,
    summarize,
    summary_table,
)
from muloco.launch.surroundings import check_surroundings
from muloco.training.config import Config
from muloco.training.data import prepare_data
from muloco.training.environment import ATTEMPT, LIGHTHOUSE, SECRET
from muloco.training.lines import why_full
from muloco.training.load import ConfigError
from muloco.training.resuming import Resumption, check_content, config_json, content_of, run_folder
from muloco.training.run_folder import MetricsTail, RunFolder, next_attempt, why_unwritable, write_json

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
GRACE_SECONDS = 10.0
"""From asking a worker to end to insisting."""
TORCHRUN_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""Those that torchrun passes on to the ranks: its own, and the wish that they stop."""
LEAVE_SECONDS = 3600
"""How long torchrun waits after that for the ranks to reach a sync and save a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    folder: RunFolder
    status: int
    """Exit status: 0, 1 after a failure, 128 and a signal's number where one has stopped it: 130 after Ctrl-C."""


def train(config: Config, *, chosen: Config, resumption: Resumption | None, console: Console) -> Outcome:
    """Runs all workers of a config until they are done: on this machine or, in a SLURM job, on its nodes.

    Args:
        config: resolved.
        chosen: what it was resolved from, for config.json.
        resumption: the run that is resumed from its newest checkpoint; None: a new run is started.
        console: where to show it.

    Raises:
        ConfigError: the run folder, this machine or the SLURM job does not allow it.
    """
    started = time.monotonic()
    folder = run_folder(config)
    if resumption is not None and resumption.ended:
        console.print(
            f"the run in {folder.root} is complete at step {config.training.steps}; its summary is {folder.summary}; "
            "give more --training.steps to extend it",
            markup=False,
        )
        return Outcome(folder=folder, status=0)
    _check_folder(folder, fresh=resumption is None)
    with only_supervisor(folder):
        return _train(config, chosen, resumption, folder, console, started)


def _train(
    config: Config,
    chosen: Config,
    resumption: Resumption | None,
    folder: RunFolder,
    console: Console,
    started: float,
) -> Outcome:
    job = current_allocation()
    check_surroundings(config, os.environ, here=job is None)
    placement = place(config) if job is None else place_in(config, job, environment=os.environ)
    attempt = next_attempt(folder)
    data = prepare_data(config)
    console.print(data.description(), markup=False)
    content = content_of(data, config)
    if resumption is not None:
        for remark in filter(None, (*resumption.remarks, check_content(resumption, content))):
            console.print(remark, markup=False)
    claim = Claim(folder, config_json(chosen, config, content), attempt=attempt, fresh=resumption is None)
    console.print(f"run folder: {folder.root}\n{placement.description}")
    tail = MetricsTail(folder, config.workers)
    children: list[Child] = []
    interrupted, failed, restarts = False, [], 0
    lighthouse: Lighthouse | None = None
    with secret_of_attempt(folder, os.environ) as secret, StopSignals() as stop, View(config, console) as view:
        try:
            environment = _environment(attempt, secret)
            if config.worker_processes > 1:
                start = partial(_start_lighthouse, config, folder, placement.lighthouse, children, secret)
                lighthouse = Lighthouse(start, placement.lighthouse.port, secret=secret)
                environment[LIGHTHOUSE] = lighthouse.address
            crew = Crew(
                lambda worker: _start_worker(config, folder, placement, environment, view, children, worker),
                workers=config.worker_processes,
                least=config.fault_tolerance.min_replica_size,
                restarts=config.fault_tolerance.restarts if config.worker_processes > 1 else 0,
            )
            failed = _watch(crew, lighthouse, stop, tail, view)
            restarts = crew.restarts
        except KeyboardInterrupt:
            interrupted = True
        except BaseException:
            claim.take_back()
            raise
        finally:
            for child in children:
                child.ask_to_end()
            for child in children:
                child.end(GRACE_SECONDS)
            if lighthouse is not None:
                lighthouse.close()
    if interrupted:
        console.print(how_it_stopped(folder, steps=config.training.steps or 0), markup=False)
        return Outcome(folder=folder, status=stop.status(otherwise=signal.SIGINT))
    if failed:
        claim.take_back()
        for child in failed:
            console.print(f"{child.name} failed: {child.reason()}\n  log: {child.log}", style="red", markup=False)
        return Outcome(folder=folder, status=1)
    newest = newest_checkpoint(folder)
    if not reached_end(config, folder):  # a signal came, here or to a worker; or the disk is full
        if stop.received is None and (reason := why_full(folder.root)) is not None:
            console.print(
                f"the metrics of the last steps could not be written: {reason}; free disk space, then resume with: "
                f"muloco train {folder.config} --resume",
                style="red",
            )
            return Outcome(folder=folder, status=1)
        console.print(how_it_stopped(folder, steps=config.training.steps or 0), markup=False)
        return Outcome(folder=folder, status=stop.status(otherwise=signal.SIGTERM))
    if config.checkpoint.enable and newest != config.training.steps:
        kept = "no earlier one is kept, so" if newest is None else f"that of step {newest} is kept;"
        again = "starts again from the beginning" if newest is None else "resumes from it"
        console.print(
            f"the checkpoint of the last step is incomplete (see the logs in {folder.log(0).parent}); "
            f"{kept} this {again}: muloco train {folder.config} --resume",
            style="red",
        )
        return Outcome(folder=folder, status=1)
    seconds = time.monotonic() - started + seconds_before(folder, attempt)
    summary = summarize(config, folder, corpus=data.digests, wall_seconds=seconds, restarts=restarts)
    console.print(summary_table(summary, config=config))
    try:
        write_json(folder.summary, summary)
    except OSError as error:
        reason = (
            f"the summary could not be written: {error}; free disk space, then: muloco train {folder.config} --resume"
        )
        console.print(reason, style="red", markup=False)
        return Outcome(folder=folder, status=1)
    return Outcome(folder=folder, status=0)


def _check_folder(folder: RunFolder, *, fresh: bool) -> None:
    if (reason := why_unwritable(folder)) is not None:
        raise ConfigError(f"the run folder cannot be written to (run.outputs, run.name): {reason}")
    if fresh and folder.config.exists():
        raise taken(folder)


def _environment(attempt: int, secret: str) -> dict[str, str]:
    """What all workers' environments add to this one's."""
    return {
        ATTEMPT: str(attempt),
        SECRET: secret,
        "RUST_LOG": os.environ.get("RUST_LOG", "warn"),
    }


def _start_lighthouse(
    config: Config, folder: RunFolder, station: Station, children: list[Child], secret: str, port: int
) -> tuple[Child, str]:
    child, address = start_lighthouse(
        secret=secret,
        workers=config.fault_tolerance.min_replica_size,
        log=folder.log("lighthouse"),
        station=station,
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
    """Starts a worker's process; it is added to `children` at once, so that whatever happens it is ended."""
    station = placement.stations[worker]
    # gloo by itself would look for the address of the host's name
    interface = {"GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", station.interface)}
    if station.host == LOOPBACK:  # NCCL by itself would listen on another interface
        interface["NCCL_SOCKET_IFNAME"] = os.environ.get("NCCL_SOCKET_IFNAME", station.interface)
    child = Child(
        f"worker {worker}" if config.worker_processes == config.workers else "workers",
        _worker_command(config, folder, worker, station, placement.process_group),
        log=folder.log(worker),
        environment={**environment, **interface, **placement.environments[worker]},
        on_line=partial(view.log, worker),
        end_signal=signal.SIGINT,  # SIGTERM asks a worker to save a checkpoint first
    )
    children.append(child)
    return child


def _worker_command(config: Config, folder: RunFolder, worker: int, station: Station, process_group: str) -> list[str]:
    module = ["-m", "muloco"]
    if config.ranks_per_worker > 1:
        module = [
            *(
                "-m",
                "muloco.launch.torchrun",
                str(LEAVE_SECONDS),
                f"--nproc-per-node={config.ranks_per_worker // station.nodes}",
            ),
            *_rendezvous(station),
            f"--signals-to-handle={TORCHRUN_SIGNALS}",
            *module,
        ]
    overrides = [
        *("--fault_tolerance.replica_id", str(worker)),
        *("--fault_tolerance.process_group", process_group),
        *("--fault_tolerance.host", config.fault_tolerance.host or station.host),
    ]
    return [*station.start, station.python, *module, "worker", str(folder.config), *overrides]


def _rendezvous(station: Station) -> list[str]:
    """How torchrun brings the ranks of a worker together; the node tells its number itself (`muloco.launch.node`)."""
    if station.nodes == 1:
        return ["--rdzv-backend=loopback", f"--local-addr={LOOPBACK}"]
    return [f"--nnodes={station.nodes}", f"--master-addr={station.host}", f"--master-port={station.port}"]


def _watch(crew: Crew, lighthouse: Lighthouse | None, stop: StopSignals, tail: MetricsTail, view: View) -> list[Child]:
    """Waits for the end of the run. Returns the processes that are the cause, where it failed."""
    while True:
        lines = list(tail.new_lines())
        crew.take_note(lines)
        view.update(lines, crew.away())
        if lighthouse is not None and not lighthouse.keep_alive():
            return [lighthouse.child]
        if stop.received is not None:
            crew.leave()
        if crew.watch():
            view.update(tail.new_lines(), crew.away())
            return crew.failures()
        time.sleep(POLL_SECONDS)
