"""The function titan(config) of a user's file, by which everything of torchtitan that muloco does not name is set."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from muloco.errors import UserError
from muloco.settings.load import users_code, users_function
from muloco.training.trainer import MulocoTrainer

logger = logging.getLogger(__name__)

DECIDED = {
    "muloco": "a field of the config",
    "group": "fault_tolerance.transport",
    "stop": "nothing: it stops the run",
    "evaluation": "the section evaluation",
    "dump_folder": "run.outputs and run.name",
    "training.steps": "training.steps",
    "training.seq_len": "training.seq_len",
    "training.local_batch_size": "training.local_batch_size",
    "training.global_batch_size": "training.global_batch_size",
    "parallelism.data_parallel_replicate_degree": "parallelism.data_parallel_replicate_degree",
    "parallelism.data_parallel_shard_degree": "parallelism.data_parallel_shard_degree",
    "parallelism.tensor_parallel_degree": "parallelism.tensor_parallel_degree",
    "parallelism.context_parallel_degree": "nothing: outer steps do not support it",
    "parallelism.pipeline_parallel_degree": "nothing: outer steps do not support it",
    "checkpoint.interval": "checkpoint.interval",
    "checkpoint.keep_latest_k": "checkpoint.keep",
}
"""Values of torchtitan's config on which the outer loop, checkpoints and data positions are built, each with what sets
it in a config of muloco."""


def changed_by_user(config: MulocoTrainer.Config, file: Path) -> MulocoTrainer.Config:
    """Returns torchtitan's config as the function `titan` of a file leaves it: in place, or as it returns it.

    Args:
        config: torchtitan's config of this worker.
        file: absolute path of a Python file that defines `titan(config)`.

    Raises:
        UserError: there is no such function, it raises an exception, or the config that it leaves cannot be used.
    """
    before = {name: _value(config, name) for name in DECIDED}
    function = users_function(file, "titan")
    with users_code(file):
        returned = function(config)
        changed = config if returned is None else returned
        if type(changed) is not type(config):
            raise UserError(
                f"titan() in {file} returned {type(changed).__name__}; it has to return its argument, or None"
            )
        changed = dataclasses.replace(changed)  # torchtitan checks it as if it were new
    for name, value in before.items():
        if (now := _value(changed, name)) is not value and now != value:
            by = DECIDED[name]
            raise UserError(f"titan() in {file} may not change {name}, from {value!r} to {now!r}; it is set by {by}")
    if changed.profiler.enable_profiling and changed.muloco.worker_processes < changed.muloco.workers:
        raise UserError(
            f"titan() in {file} turns on torch's profiler, of which there is one in a process, and all workers are in "
            "one process (fault_tolerance.transport in_process); use transport torchft"
        )
    logger.info("torchtitan's config was changed by titan() in %s", file)
    return changed


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config
