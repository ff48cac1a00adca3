"""The state of an outer loop between two inner steps, as it is saved and restored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

Tensors = dict[str, dict[str, torch.Tensor]]
"""This rank's parts of tensors, by kind and by the name of the parameter or buffer."""


class Saved(Protocol):
    """A saved state of an outer loop, in memory or elsewhere."""

    @property
    def position(self) -> str:
        """See `Snapshot.position`."""
        ...

    @property
    def residuals(self) -> Tensors:
        """See `Snapshot.residuals`."""
        ...

    @property
    def codecs(self) -> Mapping[int, bytes]:
        """See `Snapshot.codecs`."""
        ...

    def fill(self, tensors: Tensors) -> None:
        """Writes the saved values into these tensors, which have the kinds, names and shapes of `Snapshot.tensors`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A saved state of an outer loop in memory: `OuterLoop.snapshot` returns it, and `OuterLoop.restore` takes it."""

    position: str
    """JSON: the position of the worker in its windows, what it knows of the others, and the round of a fragment in
    flight."""
    tensors: Tensors
    """The state that all workers share: `anchor`, of parameters and averaged buffers; `outer_...` for each buffer of
    the outer optimizer; and `mean` for a fragment in flight. They are not copies: the next outer step changes them."""
    residuals: Tensors
    """Copies of the residuals on this rank. Empty without error feedback, and if another worker is to go on from this
    state."""
    codecs: dict[int, bytes]
    """States of the codecs on this rank, by index of the fragment, if a codec keeps any. Empty if another worker is to
    go on from this state."""

    def fill(self, tensors: Tensors) -> None:
        """See `Saved.fill`."""
        for kind, values in tensors.items():
            for name, tensor in values.items():
                tensor.copy_(self.tensors[kind][name])
