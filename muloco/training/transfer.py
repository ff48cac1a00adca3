"""Sends a worker's state as bytes to another worker that was away: the `StateTransfer` of the outer loop."""

import io
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from muloco import sharding
from muloco.outer import Snapshot


class Joining(Protocol):
    """The trainer, as it is told of a state that it has taken over."""

    step: int

    def joined(self, data_position: str | None) -> None:
        """Goes to a position in this worker's shard of the data (None: to its start) and reports that it has joined."""
        ...


class WorkerTransfer:
    """Packs this rank's inner optimizer, learning rate, step, and all that the outer loop holds. The parameters need
    not go, unless they are among the states: a worker that joins begins with the anchor.

    Args:
        states: inner optimizer and learning rate, by name, as they go into a checkpoint, in the order of loading.
        trainer: whose step it is.
    """

    def __init__(self, states: Mapping[str, Any], *, trainer: Joining):
        self._states = dict(states)
        self._trainer = trainer

    def pack(self, snapshot: Snapshot) -> bytes:
        packed = {
            "step": self._trainer.step,
            "states": {name: _local(state.state_dict()) for name, state in self._states.items()},
            "tensors": _local(snapshot.tensors),
            "position": {"position": snapshot.position},
        }
        buffer = io.BytesIO()
        torch.save(packed, buffer)
        return buffer.getvalue()

    def unpack(self, state: bytes) -> Snapshot:
        packed = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        for name, part in self._states.items():
            part.load_state_dict(_fill(part.state_dict(), packed["states"][name]))
        self._trainer.step = packed["step"]
        return Snapshot(position=packed["position"]["position"], tensors=packed["tensors"], residuals={}, codecs={})

    def joined(self, data_position: str | None) -> None:
        self._trainer.joined(data_position)


def _local(value: Any) -> Any:
    """A copy of nested state on the CPU, with this rank's part of every tensor."""
    if isinstance(value, torch.Tensor):
        return sharding.local(value).detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _local(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_local(item) for item in value)
    return value


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
