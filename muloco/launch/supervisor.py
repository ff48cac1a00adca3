"""The supervisor of a run on this machine: starts everything, watches it, ends everything, sums it up."""

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from muloco.launch.devices import Placement, place
from muloco.launch.lighthouse import start_lighthouse
from muloco.launch.live import View
from muloco.launch.processes import Child
from muloco.launch.summary import summarize, summary_table
from muloco.training.config import Config
from muloco.training.data import prepare_data
from muloco.training.load import ConfigError, load_config, to_dict
from muloco.training.run_folder import MetricsTail, RunFolder, next_attempt, write_json

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
LIGHTHOUSE = "lighthouse"
GRACE_SECONDS = 10.0
"""From asking a worker to end to insisting."""
FAILURE_SECONDS = 3.0
"""After a first failure, time for others to fail too, so that the cause is told from its consequences."""
_FIXED = ("model", "data", "training", "optimizer", "lr_scheduler", "fault_tolerance", "outer_optimizer", "parallelism")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    folder: RunFolder
    status: int
    """Exit status: 0, 1 after a failure, 130 after Ctrl-C."""


def train(config: Config, *, chosen: Config, resume: bool, console: Console) -> Outcome:
    """Runs all workers of a config on this machine until they are done.

    Args:
        config: resolved.
        chosen: what it was resolved from, for config.json.
        resume: take up the run of that name from its newest checkpoint.
        console: where to show it.

    Raises:
        ConfigError: the run folder or this machine does not allow it.
    """
    started = time.monotonic()
    folder = RunFolder(Path(config.run.outputs) / str(config.run.name))
    _check_folder(config, folder, resume=resume)
    placement = place(config)
    attempt = next_attempt(folder)
    console.print(prepare_data(config).description(), markup=False)
    if not resume:
        write_json(folder.config, {"chosen": to_dict(chosen), "resolved": to_dict(config)})
    console.print(f"run folder: {folder.root}\n{placement.description}")
    tail = MetricsTail(folder, config.workers)
    children: list[Child] = []
    with View(config, console) as view:
        try:
            _start(config, folder, placement, attempt, view, children)
            failed = _watch(children, tail, view)
        except KeyboardInterrupt:
            failed, interrupted = [], True
        else:
            interrupted = False
        finally:
            for child in children:
                child.ask_to_end()
            for child in children:
                child.end(GRACE_SECONDS)
    if interrupted:
        console.print(f"stopped; take it up again with: muloco train {folder.config} --resume")
        return Outcome(folder=folder, status=130)
    if failed:
        for child in failed:
            console.print(f"{child.name} failed: {child.reason()}\n  log: {child.log}", style="red", markup=False)
        return Outcome(folder=folder, status=1)
    summary = summarize(config, folder, wall_seconds=time.monotonic() - started)
    write_json(folder.summary, summary)
    console.print(summary_table(summary, config=config))
    return Outcome(folder=folder, status=0)


def _check_folder(config: Config, folder: RunFolder, *, resume: bool) -> None:
    exists = folder.config.exists()
    if not resume:
        if exists:
            raise ConfigError(
                f"{folder.root} already holds a run; choose another --run.name, or take it up again with --resume"
            )
        return
    if not exists:
        raise ConfigError(f"there is no run to resume in {folder.root}; name it with --run.name")
    if folder.summary.exists():
        raise ConfigError(f"the run in {folder.root} has ended: its summary is {folder.summary}")
    stored = load_config(str(folder.config))
    for section in _FIXED:
        before, now = dataclasses.asdict(getattr(stored, section)), dataclasses.asdict(getattr(config, section))
        changed = [
            f"{section}.{name} {before[name]!r} -> {now[name]!r}" for name in before if before[name] != now[name]
        ]
        if changed:
            raise ConfigError(f"a resumed run keeps its config; this differs: {', '.join(changed)}")


def _start(
    config: Config, folder: RunFolder, placement: Placement, attempt: int, view: View, children: list[Child]
) -> None:
    """Starts everything; each process is added to `children` at once, so that whatever happens it is ended."""
    environment = {
        "MULOCO_ATTEMPT": str(attempt),
        "RUST_LOG": os.environ.get("RUST_LOG", "warn"),
        # all processes are on this machine; gloo would look for the address of its host name
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0"),
    }
    if config.workers > 1:
        lighthouse, address = start_lighthouse(workers=config.workers, log=folder.log(LIGHTHOUSE))
        children.append(lighthouse)
        environment["TORCHFT_LIGHTHOUSE"] = address
    for worker in range(config.workers):
        child = Child(
            f"worker {worker}",
            _worker_command(config, folder, worker, placement.process_group),
            log=folder.log(worker),
            environment={**environment, **placement.environments[worker]},
            on_line=partial(view.log, worker),
        )
        children.append(child)


def _worker_command(config: Config, folder: RunFolder, worker: int, process_group: str) -> list[str]:
    module = ["-m", "muloco"]
    if config.ranks_per_worker > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={config.ranks_per_worker}"]
        module = [*torchrun, *module]
    overrides = [
        *("--fault_tolerance.replica_id", str(worker)),
        *("--fault_tolerance.process_group", process_group),
    ]
    return [sys.executable, *module, "worker", str(folder.config), *overrides]


def _watch(children: Sequence[Child], tail: MetricsTail, view: View) -> list[Child]:
    """Waits for the end of all workers, or for a first failure. Returns the processes that failed of themselves."""
    workers = [child for child in children if child.name != LIGHTHOUSE]
    while True:
        view.update(tail.new_lines())
        if any(worker.status for worker in workers):
            return _culprits(workers)
        lost = [child for child in children if child.name == LIGHTHOUSE and child.status is not None]
        if lost:
            return lost
        if all(worker.status == 0 for worker in workers):
            view.update(tail.new_lines())
            return []
        time.sleep(POLL_SECONDS)


def _culprits(workers: Sequence[Child]) -> list[Child]:
    first = [worker for worker in workers if worker.status]
    time.sleep(FAILURE_SECONDS)
    failed = [worker for worker in workers if worker.status]
    causes = [worker for worker in failed if not worker.reason().startswith("TransportError")]
    return causes or first
