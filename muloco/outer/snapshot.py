"""The state of an outer loop between two inner steps, and what it is restored from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

Tensors = dict[str, dict[str, torch.Tensor]]
"""This rank's parts of tensors, by kind and parameter name."""


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
    """What `OuterLoop.snapshot` returns and `OuterLoop.restore` takes."""

    position: str
    """Where the worker is in its windows, what it knows of the others, and the round of a fragment in flight: JSON."""
    tensors: Tensors
    """The state that all workers share: `anchor`, `outer_...` for each buffer of the outer optimizer, and `mean` for a
    fragment in flight. They are not copies: the next outer step changes them."""
    residuals: Tensors
    """What compression has left on this rank: copies. Empty without error feedback, and if another worker is to go on
    from it."""
    codecs: dict[int, bytes]
    """States of the codecs on this rank, by the index of the fragment, where a codec keeps one. Empty if another worker
    is to go on from it."""

    def fill(self, tensors: Tensors) -> None:
        """See `Saved.fill`."""
        for kind, values in tensors.items():
            for name, tensor in values.items():
                tensor.copy_(self.tensors[kind][name])
