"""Sends a worker's state as bytes to another worker that was away: the `StateTransfer` of the outer loop."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map_only

from muloco import sharding
from muloco.outer import Snapshot

if TYPE_CHECKING:
    from muloco.training.trainer import MulocoTrainer


@dataclass(frozen=True)
class WorkerTransfer:
    """Packs this rank's inner optimizer, learning rate, step, and all that the outer loop holds. Parameters and buffers
    need not go, unless they are among the states: a worker that joins begins with the anchor, which has both."""

    states: Mapping[str, Any]
    """Inner optimizer and learning rate, by name, as they go into a checkpoint, in the order of loading."""
    trainer: "MulocoTrainer"
    """The trainer whose step it is."""

    def pack(self, snapshot: Snapshot) -> bytes:
        packed = {
            "step": self.trainer.step,
            "states": _on_cpu({name: state.state_dict() for name, state in self.states.items()}),
            "tensors": _on_cpu(snapshot.tensors),
            "position": {"position": snapshot.position},
        }
        buffer = io.BytesIO()
        torch.save(packed, buffer)
        return buffer.getvalue()

    def unpack(self, state: bytes) -> Snapshot:
        packed = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        for name, part in self.states.items():
            part.load_state_dict(_fill(part.state_dict(), packed["states"][name]))
        self.trainer.step = packed["step"]
        return Snapshot(position=packed["position"]["position"], tensors=packed["tensors"], residuals={}, codecs={})

    def joined(self, data_position: str | None) -> None:
        self.trainer.joined(data_position)


def _on_cpu(state: Any) -> Any:
    """Nested state with a copy on the CPU of this rank's part of every tensor."""
    return tree_map_only(torch.Tensor, lambda x: sharding.local(x).detach().to("cpu", copy=True), state)


def _fill(own: Any, received: Any) -> Any:
    """The received values in the tensors of `own`, whatever they are sharded as."""
    if isinstance(own, torch.Tensor):
        sharding.local(own).copy_(received)
        return own
    if isinstance(own, Mapping):
        return {key: _fill(own[key], item) for key, item in received.items()}
    if isinstance(own, list | tuple):
        return type(own)(_fill(item, other) for item, other in zip(own, received, strict=True))
    return received
