"""What validation computes, and what share of a worker's computation it is. Needs nothing but Python.

The held-out set is cut into batches, which all workers cut alike. The workers share the batches of the anchor, which is
the same on all of them, and validate it once until it moves. Each worker validates its own weights on a share of its
own, and only just before an outer step: elsewhere they are on the way to no anchor.
"""

from muloco.data.held_out_batches import held_out_batches, own_batches, shared_batches
from muloco.outer.fragments import Schedule
from muloco.training.config import Config

TRAINING_PASSES = 3
"""Forward passes that a training step costs a sequence: one forward, and a backward of twice its operations."""


def is_validated(step: int, *, freq: int, last: int) -> bool:
    """Whether the model after an inner step, from 0, is validated."""
    return step % freq == 0 or step == last


def validated_sequences(config: Config, worker: int = 0) -> int:
    """Sequences of which a worker computes the loss for validation over a whole run; padding counts.

    Args:
        config: resolved.
        worker: which one; 0 has as much to do as any.
    """
    steps, workers = config.training.steps, config.workers
    assert steps is not None
    together = config.training.local_batch_size * config.data_parallel_ranks
    batches = held_out_batches(config.validation.sequences, together)
    counted = [step for step in range(steps + 1) if is_validated(step, freq=config.validation.freq, last=steps)]
    if not _has_anchor(config):
        return len(counted) * batches * together
    ft = config.fault_tolerance
    assert ft.num_fragments is not None
    schedule = Schedule(sync_interval=ft.sync_steps, fragments=ft.num_fragments, delay=ft.fragment_sync_delay)
    shared = len(shared_batches(batches, worker, workers))
    own = len(own_batches(batches, worker, workers))
    meets = config.worker_processes == 1  # processes validate the first anchor before they have met
    total, known = shared if meets else batches, 0  # the anchor that is known is that of the step `known`
    for step in counted[1:]:
        if step == steps or schedule.due_after(step) is not None:
            total += own
        moved = step if step == steps else _last_outer_step(schedule, step, ft.sync_steps)
        if moved > known:
            total, known = total + shared, moved
    return total * together


def validation_share(config: Config) -> float:
    """The share of a worker's forward and backward passes that goes into validation, from 0 to 1.

    Args:
        config: resolved.
    """
    assert config.training.steps is not None
    trained = config.training.steps * config.training.global_batch_size // config.workers
    validated = validated_sequences(config)
    return validated / (validated + TRAINING_PASSES * trained)


def _has_anchor(config: Config) -> bool:
    """Whether the workers have an anchor in common that is validated; GPA validates each worker's own average."""
    return config.syncs and config.optimizer.name != "GPA"


def _last_outer_step(schedule: Schedule, step: int, interval: int) -> int:
    """The newest inner step up to `step` after which an outer step was taken; 0: none."""
    before = range(step, max(0, step - interval), -1)
    return next((one for one in before if schedule.due_after(one) is not None), 0)
