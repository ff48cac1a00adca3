"""Memory of a worker's training state, in fp32 words a parameter and in bytes."""

from dataclasses import dataclass

WORD = 4
"""Bytes of an fp32 number."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a whole worker; its ranks share them where the model is sharded. Activations are not in it."""

    parameters: int
    gradients: int
    inner: int
    """State of the inner optimizer."""
    outer: int
    """Anchor and outer optimizer."""
    error_feedback: int
    codecs: int
    """States that codecs keep from sync to sync."""
    syncing: int
    """Additional bytes at the peak of a sync, above the state between syncs."""

    @property
    def state(self) -> int:
        """All bytes that a worker holds between two syncs."""
        return self.parameters + self.gradients + self.inner + self.outer + self.error_feedback + self.codecs

    @property
    def peak(self) -> int:
        return self.state + self.syncing


def memory(
    *,
    parameters: int,
    inner_state: int,
    outer_buffers: int | None = None,
    residual_words: float = 0.0,
    codec_state: int = 0,
    sync_words: float = 0.0,
) -> Memory:
    """Returns the memory of one worker: its training state, and what a sync needs in addition.

    Args:
        parameters: N.
        inner_state: numbers that the inner optimizer keeps.
        outer_buffers: of the outer optimizer, of N each: 1 for sgd with momentum, 0 without, 2 for adamw; None: there
            is no outer loop, and so no anchor.
        residual_words: fp32 words a parameter that the residuals of error feedback take.
        codec_state: bytes that the codecs keep from sync to sync.
        sync_words: fp32 words a parameter at the peak of a sync above the state between syncs, see
            `muloco.outer.loop.memory.sync_words`.
    """
    n = WORD * parameters
    return Memory(
        parameters=n,
        gradients=n,
        inner=WORD * inner_state,
        outer=n * (1 + outer_buffers) if outer_buffers is not None else 0,
        error_feedback=round(residual_words * n),
        codecs=codec_state,
        syncing=round(sync_words * n),
    )
