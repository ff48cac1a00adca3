"""The work of validation, and its share of a worker's computation. This module needs only Python.

All workers divide the held-out set into the same batches. The anchor is the same on all workers, so they share the
batches to validate it, and validate each anchor once. Each worker validates its own weights on its own share of the
batches, and only just before an outer step.
"""

import math

from muloco.data.held_out_batches import held_out_batches, own_batches, shared_batches
from muloco.outer.loop.fragments import Schedule
from muloco.settings.config import ResolvedConfig

TRAINING_PASSES = 3
"""Cost of a training step for a sequence, in forward passes: one forward pass, and a backward pass of twice its
FLOPs."""


def is_validated(step: int, *, freq: int, last: int) -> bool:
    """Whether the model is validated after inner step `step`; 0 is before the first one."""
    return step % freq == 0 or step == last


def validated_sequences(config: ResolvedConfig, worker: int = 0) -> int:
    """Returns the number of sequences that a worker validates over a whole run, padding included.

    Args:
        config: of the run.
        worker: id of the worker; no worker has more work than worker 0.
    """
    steps, workers, freq = config.training.steps, config.workers, config.validation.freq
    together = config.training.local_batch_size * config.data_parallel_ranks
    batches = held_out_batches(config.validation.sequences, together)
    if not _has_anchor(config):
        return (1 + math.ceil(steps / freq)) * batches * together
    ft = config.fault_tolerance
    schedule = Schedule(sync_interval=ft.sync_steps, fragments=ft.num_fragments, delay=ft.fragment_sync_delay)
    shared = len(shared_batches(batches, worker, workers))
    own = len(own_batches(batches, worker, workers))
    meets = config.worker_processes == 1  # separate processes validate the first anchor before they have met

    def validated(steps: int) -> int:
        """Returns the number of batches in a run of so many steps, after the first validation."""
        total, known = 0, 0  # `known`: step of the anchor that was last validated
        for step in (*range(freq, steps, freq), steps):
            if step == steps or schedule.due_after(step) is not None:
                total += own
            moved = step if step == steps else _last_outer_step(schedule, step, ft.sync_steps)
            if moved > known:
                total, known = total + shared, moved
        return total

    period = math.lcm(freq, ft.sync_steps)  # after which the same steps are validated in a window
    alike = max(0, steps // period - 3)
    total = validated(steps - alike * period) + alike * (validated(3 * period) - validated(2 * period) if alike else 0)
    return ((shared if meets else batches) + total) * together


def validation_share(config: ResolvedConfig) -> float:
    """Returns the share of validation in a worker's forward and backward passes, from 0 to 1.

    Args:
        config: of the run.
    """
    trained = config.training.steps * config.training.global_batch_size // config.workers
    validated = validated_sequences(config)
    return validated / (validated + TRAINING_PASSES * trained)


def _has_anchor(config: ResolvedConfig) -> bool:
    """Whether the workers validate a common anchor. With GPA each worker validates its own average."""
    return config.syncs and config.optimizer.name != "GPA"


def _last_outer_step(schedule: Schedule, step: int, interval: int) -> int:
    """Returns the last inner step up to `step` that ended with an outer step; 0 if there is none."""
    before = range(step, max(0, step - interval), -1)
    return next((one for one in before if schedule.due_after(one) is not None), 0)
