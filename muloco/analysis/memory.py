"""Memory of a worker's training state, in bytes, from a run's config."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muloco.model.flavors import flavor
from muloco.model.stepped import stepped
from muloco.optim.rules import RULES
from muloco.outer.loop.memory import sync_words
from muloco.settings.config import ResolvedConfig

if TYPE_CHECKING:
    from muloco.outer.codecs.compression import Layout

WORD = 4
"""Bytes of an fp32 number."""
_OUTER_BUFFERS = {"sgd": 1, "adamw": 2, "muon": 1}
"""fp32 words a parameter that the outer optimizer keeps; sgd without momentum keeps none."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a whole worker; its ranks share them where the model is sharded. Activations are not in it."""

    parameters: int
    gradients: int
    inner: int
    """State of the inner optimizer."""
    outer: int
    """Anchor and outer optimizer; 0 without an outer loop."""
    error_feedback: int
    """Residuals of error feedback."""
    codecs: int
    """States that codecs keep from sync to sync."""
    syncing: int
    """Additional bytes at the peak of a sync, above the state between syncs (`muloco.outer.loop.memory.sync_words`)."""

    @property
    def state(self) -> int:
        """All bytes that a worker holds between two syncs."""
        return self.parameters + self.gradients + self.inner + self.outer + self.error_feedback + self.codecs

    @property
    def peak(self) -> int:
        return self.state + self.syncing


def memory(config: ResolvedConfig, layouts: Sequence["Layout"]) -> Memory:
    """Returns the memory of one worker: its training state, and what a sync needs in addition. It assumes CUDA graphs,
    which keep the gradients, unless the config turns them off or the workers share a process.

    Args:
        config: resolved.
        layouts: the forms in which the fragments travel; empty without an outer loop.
    """
    ft, compression = config.fault_tolerance, config.compression
    in_process = ft.transport == "in_process"
    words = sync_words(
        workers=config.workers,
        sync_delay=ft.fragment_sync_delay,
        compressed=compression.kind != "none",
        error_feedback=compression.error_feedback,
        fragments=ft.num_fragments,
        in_process=in_process,
        gradients_stay=not in_process and not config.training.disable_cuda_graphs,
    )
    n = WORD * flavor(config.model.flavor).parameters
    outer, again = config.outer_optimizer, compression.reduce == "reselect"
    buffers = 0 if outer.class_name == "sgd" and not outer.momentum else _OUTER_BUFFERS[outer.class_name]
    residuals = (1 + again / config.workers) * compression.error_feedback  # of what it sends, and of its own means
    codecs = _codec_state(layouts, config.workers)
    twice = codecs / n / ft.num_fragments  # until a round has committed
    return Memory(
        parameters=n,
        gradients=n,
        inner=WORD * _inner_state(config),
        outer=n * (1 + buffers) if config.syncs else 0,
        error_feedback=round(residuals * n),
        codecs=codecs,
        syncing=round((words + twice) * n) if config.syncs else 0,
    )


def _inner_state(config: ResolvedConfig) -> int:
    """Returns how many numbers the inner optimizer keeps for the parameters."""
    size, optimizer = flavor(config.model.flavor), config.optimizer
    if optimizer.name == "SGD":
        return size.parameters if optimizer.mu else 0
    average = size.parameters if optimizer.name == "GPA" else 0  # its z
    groups = stepped(size, optimizer.rules(), optimizer.choices())
    return average + sum(RULES[group.rule].words * group.parameters for group in groups)


def _codec_state(layouts: Sequence["Layout"], workers: int) -> int:
    """Returns the bytes that codecs keep on the worker with the most: for all pieces that it sends and, with reselect,
    for those that it owns."""
    from muloco.outer.protocol.exchange import split

    total = 0
    for layout in layouts:
        parts = split(layout.shapes, workers if layout.reduce == "reselect" else 1)
        states = [sum(layout.codecs[piece.tensor].state_bytes(piece.shape) for piece in pieces) for pieces in parts]
        total += sum(states) + max(states) * (layout.reduce == "reselect")
    return total
