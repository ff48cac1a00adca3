"""`muloco worker`: run one worker of a config."""

import argparse
import logging
import os
import signal
import sys

from muloco.commands.parser import Commands
from muloco.commands.with_config import add_config_command, chosen_config
from muloco.errors import FAILED, UserError, exit_status, rank_ends
from muloco.resolve import resolve
from muloco.settings.load import find_config, locate
from muloco.training.environment import ATTEMPT, check_environment
from muloco.training.evaluation import MakeEvaluation

DESCRIPTION = """Run one worker of CONFIG (under torchrun where it has several ranks), joining the lighthouse at
$TORCHFT_LIGHTHOUSE. `muloco train` and job scripts start workers with it; by hand, give each worker its
--fault_tolerance.replica_id and all of them the same --run.name."""


def add(commands: Commands) -> None:
    add_config_command(commands, "worker", run, summary="run one worker of a run", description=DESCRIPTION)


def run(args: argparse.Namespace) -> int:
    """Returns the exit status of a worker that has failed (`muloco.errors`). One that succeeds ends the process."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun starts its ranks in sessions that a kill of its own misses
        from muloco.launch.processes import end_with_parent

        end_with_parent(signal.SIGKILL)
    chosen = chosen_config(args)
    file = find_config(args.config)
    locate(chosen, file, args.words)
    if chosen.run.name is None and chosen.fault_tolerance.group_size > 1:
        raise UserError("all workers of a run need the same --run.name")
    from muloco.training.worker_log import set_up_log

    set_up_log(rank=int(os.environ.get("RANK", "0")))
    config = resolve(chosen, config_name=file.stem)
    check_environment(config, os.environ)
    from muloco.launch.summary import sum_up_by_hand
    from muloco.training.worker import run_worker

    make_evaluation: MakeEvaluation | None = None
    if config.evaluation.tasks:
        from muloco.evals.in_training import TaskEvaluation

        make_evaluation = TaskEvaluation
    try:
        run_worker(config, chosen=chosen, make_evaluation=make_evaluation)
    except UserError:
        raise
    except Exception as error:  # whatever it is, the supervisor has to know whether to start the worker again
        sys.excepthook(type(error), error, error.__traceback__)  # torch's, which names the rank
        status = exit_status(error)
        if status != FAILED and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            sys.stderr.write(rank_ends(int(os.environ["RANK"]), status, f"{type(error).__name__}: {error}"))
        return status
    if ATTEMPT not in os.environ and os.environ["RANK"] == "0":  # no supervisor has started it
        sum_up_by_hand(config)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread of gloo may still hold a tensor; to let go of it while Python ends would abort a worker that succeeded.
    os._exit(0)
