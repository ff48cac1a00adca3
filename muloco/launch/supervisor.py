"""The supervisor of a run, on this machine or in a SLURM job: makes attempts until the run ends, and summarizes it."""

import os
import signal
import time
from dataclasses import replace

from rich.console import Console

from muloco.errors import RunFailed, UserError
from muloco.launch.attempt import Ended, run_attempt
from muloco.launch.claim import Claim, only_supervisor, taken
from muloco.launch.lighthouse import LighthouseError
from muloco.launch.live import View
from muloco.launch.placement.allocation import current_allocation
from muloco.launch.placement.local import place_here
from muloco.launch.placement.slurm import place_in_job
from muloco.launch.placement.spec import Placement
from muloco.launch.processes import Child
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
from muloco.runs.attempts import begin_attempt, next_attempt
from muloco.runs.folder import RunFolder, check_writable, write_json
from muloco.runs.lines import why_full
from muloco.settings.config import Config, ResolvedConfig
from muloco.training.data import prepare_data
from muloco.training.resuming import Resumption, check_content, config_json, content_of, run_folder, way_on

RESUMABLE = os.EX_TEMPFAIL
"""Exit status (75) of a run that failed for a temporary reason and has a checkpoint from which it can be resumed."""
_LAST_INCOMPLETE = "the checkpoint of the last step is incomplete"


def train(config: ResolvedConfig, *, chosen: Config, resumption: Resumption | None, console: Console) -> int:
    """Runs all workers of a config until they are done: on this machine or, in a SLURM job, on its nodes.

    Args:
        chosen: what it was resolved from, for config.json.
        resumption: the run that is resumed from its newest checkpoint; None: a new run is started.

    Returns:
        exit status: 0; 1 or `RESUMABLE` after a failure that may pass; 2 or 3 after one that would occur again
        (`muloco.errors`); 128 plus the number of a signal that stopped it, such as 130 after Ctrl-C.

    Raises:
        UserError: the run folder, this machine or the SLURM job does not allow it.
    """
    started = time.monotonic()
    folder = run_folder(config)
    if resumption is not None and resumption.ended:
        console.print(
            f"the run in {folder.root} is complete at step {config.training.steps}; its summary is {folder.summary}; "
            "give more --training.steps to extend it"
        )
        return 0
    check_writable(folder)
    if resumption is None and folder.config.exists():
        raise taken(folder)
    with only_supervisor(folder):
        return _train(config, chosen, resumption, folder, console, started)


def _train(
    config: ResolvedConfig,
    chosen: Config,
    resumption: Resumption | None,
    folder: RunFolder,
    console: Console,
    started: float,
) -> int:
    job = current_allocation()
    check_surroundings(config, os.environ, here=job is None)
    placement = place_here(config) if job is None else place_in_job(config, job, environment=os.environ)
    first = next_attempt(folder)
    data = prepare_data(config)
    console.print(data.description())
    content = content_of(data)
    if resumption is not None:
        for remark in filter(None, (*resumption.remarks, check_content(resumption, content))):
            console.print(remark)
    claim = Claim(folder, config_json(chosen, config, content), attempt=first, fresh=resumption is None)
    console.print(f"run folder: {folder.root}\n{placement.description}")
    with StopSignals() as stop, View(config, console) as view:
        try:
            ended, resumes = _attempts(config, folder, placement, first, stop, view, console)
        except KeyboardInterrupt:
            console.print(how_it_stopped(folder, steps=config.training.steps))
            return stop.status(otherwise=signal.SIGINT)
        except LighthouseError as error:
            claim.take_back()
            if newest_checkpoint(folder) is None:
                raise
            console.print(f"{error}\n{way_on(folder)}", style="red")
            return _status_of_failure(folder, stop)
        except BaseException:
            claim.take_back()
            raise
    if ended.failed:
        claim.take_back()
        return _failed(ended, folder, stop, console)
    resume = f"muloco train {folder.config} --resume"
    newest = newest_checkpoint(folder)
    is_saved = config.checkpoint.enable and newest == config.training.steps
    if not reached_end(config, folder):  # a signal came, here or to a worker; or the disk is full
        if stop.received is None and (reason := why_full(folder.root)) is not None:
            console.print(
                f"the metrics of the last steps could not be written: {reason}; free disk space, then resume with: "
                f"{resume}",
                style="red",
            )
            return 1
        if stop.received is None and is_saved:
            console.print(
                f"the last step is done and saved, but its validation is missing in the readable files in "
                f"{folder.metrics(0).parent}; to repeat it: {resume}",
                style="red",
            )
            return 1
        console.print(how_it_stopped(folder, steps=config.training.steps))
        return stop.status(otherwise=signal.SIGTERM)
    if config.checkpoint.enable and not is_saved:
        console.print(f"{_LAST_INCOMPLETE} (see {folder.log(0).parent}); {way_on(folder)}", style="red")
        return 1 if newest is None else RESUMABLE
    summary = summarize(
        config,
        folder,
        corpus=data.digests,
        wall_seconds=time.monotonic() - started + seconds_before(folder, first),
        restarts=ended.restarts,
        resumes=resumes,
    )
    console.print(summary_table(summary, config=config))
    try:
        write_json(folder.summary, summary)
    except OSError as error:
        console.print(f"the summary could not be written: {error}; free disk space, then: {resume}", style="red")
        return 1
    return 0


def _attempts(
    config: ResolvedConfig,
    folder: RunFolder,
    placement: Placement,
    first: int,
    stop: StopSignals,
    view: View,
    console: Console,
) -> tuple[Ended, int]:
    """Makes attempts at a run, each from the newest whole checkpoint, until one succeeds, fails for a lasting reason or
    leaves no checkpoint. Without a new checkpoint in between, it makes at most `fault_tolerance.resumes` more. Returns
    the last attempt, with the restarts of workers in all of them, and the number of resumes."""
    attempt, restarts, resumes, in_a_row = first, 0, 0, 0
    newest = newest_checkpoint(folder)
    while True:
        begin_attempt(folder, attempt)
        ended = run_attempt(config, folder, placement, attempt, stop, view)
        restarts += ended.restarts
        failure = _what_may_pass(ended, config, folder)
        before, newest = newest, newest_checkpoint(folder)
        if newest != before:
            in_a_row = 0
        limit = config.fault_tolerance.resumes
        if failure is None or newest is None or stop.received is not None or in_a_row == limit:
            return replace(ended, restarts=restarts), resumes
        resumes, in_a_row = resumes + 1, in_a_row + 1
        attempt = max(attempt + 1, next_attempt(folder))
        console.print(
            f"{failure}\nthe run is resumed from the checkpoint of step {newest} (attempt {attempt}; resume {in_a_row} "
            f"of {limit} until the next checkpoint)",
            style="yellow",
        )


def _what_may_pass(ended: Ended, config: ResolvedConfig, folder: RunFolder) -> str | None:
    """Returns the failure of an attempt, if another one may succeed; otherwise None."""
    if ended.failed:
        return "\n".join(map(_failure, ended.failed)) if ended.may_pass else None
    whole = not config.checkpoint.enable or newest_checkpoint(folder) == config.training.steps
    return None if whole or not reached_end(config, folder) else _LAST_INCOMPLETE


def _failed(ended: Ended, folder: RunFolder, stop: StopSignals, console: Console) -> int:
    """Prints why a run has failed and what can be done, and returns the exit status."""
    for child in ended.failed:
        console.print(_failure(child), style="red")
    if not ended.may_pass:
        mistaken = any(child.status == UserError.exit_status for child in ended.failed)
        return UserError.exit_status if mistaken else RunFailed.exit_status
    if not folder.config.exists():
        return 1
    console.print(way_on(folder), style="red")
    return _status_of_failure(folder, stop)


def _status_of_failure(folder: RunFolder, stop: StopSignals) -> int:
    """Returns the exit status after a temporary failure. A run that was asked to stop for good is not `RESUMABLE`."""
    goes_on = newest_checkpoint(folder) is not None and stop.received in (None, signal.SIGUSR1)
    return RESUMABLE if goes_on else 1


def _failure(child: Child) -> str:
    return f"{child.name} failed: {child.reason()}\n  log: {child.log}"
