"""Memory of a worker's training state, in bytes, from a run's config."""

from dataclasses import dataclass

from muloco.model.flavors import flavor
from muloco.optim.rules import RULES
from muloco.outer.loop.memory import sync_words
from muloco.settings.config import ResolvedConfig

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
    syncing: int
    """Additional bytes at the peak of a sync, above the state between syncs (`muloco.outer.loop.memory.sync_words`)."""

    @property
    def state(self) -> int:
        """All bytes that a worker holds between two syncs."""
        return self.parameters + self.gradients + self.inner + self.outer + self.error_feedback

    @property
    def peak(self) -> int:
        return self.state + self.syncing


def memory(config: ResolvedConfig) -> Memory:
    """Returns the memory of one worker: its training state, and what a sync needs in addition. It assumes CUDA graphs,
    which keep the gradients, unless the config turns them off or the workers share a process."""
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
    return Memory(
        parameters=n,
        gradients=n,
        inner=WORD * _inner_state(config),
        outer=n * (1 + buffers) if config.syncs else 0,
        error_feedback=round(residuals * n),
        syncing=round(words * n) if config.syncs else 0,
    )


def _inner_state(config: ResolvedConfig) -> int:
    """Returns how many numbers the inner optimizer keeps for the parameters."""
    size, optimizer = flavor(config.model.flavor), config.optimizer
    if optimizer.name == "SGD":
        return size.parameters if optimizer.mu else 0
    average = size.parameters if optimizer.name == "GPA" else 0  # its z
    roles = optimizer.roles()
    return average + sum(RULES[roles[name].rule].words * number for name, number in size.parameters_by_role.items())
