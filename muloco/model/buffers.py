"""The buffers of a model that training changes and workers average."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from muloco._torchtitan import canonical_fqn

if TYPE_CHECKING:
    from torch import Tensor, nn

    from muloco.model.architecture import Architecture


def averaged_buffers(parts: "Iterable[nn.Module]", architecture: "Architecture") -> "dict[str, Tensor]":
    """Returns the buffers of a model for which its record has the rule `mean`, by name, without the segments that
    activation checkpointing puts into names. They are the buffers themselves: plain tensors or DTensors.

    Raises:
        ValueError: the state dict of the model holds a buffer for which the record has no rule, or does not hold one
            that is averaged, so that a worker could not resume with its own values.
    """
    averaged = {}
    for part in parts:
        saved = part.state_dict().keys()
        for wrapped, buffer in part.named_buffers():
            name = canonical_fqn(wrapped)
            rule = architecture.buffer_rule(name)
            if rule is None and name in saved:
                raise ValueError(
                    f"architecture {architecture.name}: the buffer {name} is part of the model's state, but `buffers` "
                    "of the record has no rule for it"
                )
            if rule == "mean":
                if name not in saved:
                    raise ValueError(
                        f"architecture {architecture.name}: the buffer {name} is averaged, so it has to be persistent"
                    )
                averaged[name] = buffer
    return averaged
