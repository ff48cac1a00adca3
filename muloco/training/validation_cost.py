"""The work of validation, and its share of a worker's computation. This module needs only Python.

All workers divide the held-out set into the same batches. The anchor is the same on all workers, so they share the
batches to validate it, and validate each anchor once. Each worker validates its own weights on its own share of the
batches, and only just before an outer step.
"""

import math

from muloco.outer.loop.fragments import Schedule
from muloco.settings.config import ResolvedConfig

TRAINING_PASSES = 3
"""Cost of a training step for a sequence in forward passes: a backward pass has twice the FLOPs of a forward one."""


def is_validated(step: int, *, freq: int, last: int) -> bool:
    """Whether the model is validated after inner step `step`; 0 is before the first one."""
    return step % freq == 0 or step == last


def held_out_batches(sequences: int, together: int) -> int:
    """Returns the number of batches that hold `sequences` sequences, if the ranks of a worker together take `together`
    at a time."""
    return math.ceil(sequences / together)


def shared_batches(batches: int, place: int, places: int) -> range:
    """Returns the batches that the worker at `place`, of `places`, computes of the anchor. Every batch belongs to
    exactly one place."""
    return range(place, batches, places)


def own_batches(batches: int, worker: int, workers: int) -> range:
    """Returns the batches on which a worker validates its own weights: at least one. Together the workers have all."""
    return shared_batches(batches, worker % batches, workers)


def validated_sequences(config: ResolvedConfig, worker: int = 0) -> int:
    """Returns the number of sequences, padding included, that a worker validates in a run; worker 0 has most of all."""
    steps, workers, freq = config.training.steps, config.workers, config.validation.freq
    together = config.training.local_batch_size * config.data_parallel_ranks
    batches = held_out_batches(config.validation.sequences, together)
    if not config.syncs or config.optimizer.name == "GPA":  # each worker validates a model of its own
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
            window = range(step, max(0, step - ft.sync_steps), -1)
            moved = step if step == steps else next((at for at in window if schedule.due_after(at) is not None), 0)
            if moved > known:
                total, known = total + shared, moved
        return total

    period = math.lcm(freq, ft.sync_steps)  # after which the same steps are validated in a window
    alike = max(0, steps // period - 3)
    total = validated(steps - alike * period) + alike * (validated(3 * period) - validated(2 * period) if alike else 0)
    return ((shared if meets else batches) + total) * together


def validation_share(config: ResolvedConfig) -> float:
    """Returns the share of validation in a worker's forward and backward passes over a run, from 0 to 1."""
    trained = config.training.steps * config.training.global_batch_size // config.workers
    validated = validated_sequences(config)
    return validated / (validated + TRAINING_PASSES * trained)
