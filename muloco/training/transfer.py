"""A worker's state as bytes, for another worker that was away: what `StateTransfer` of the outer loop asks for."""

import io
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from muloco import sharding
from muloco.outer import OuterLoop


class Joining(Protocol):
    """What a trainer does with a state that it has taken over."""

    step: int

    def joined(self, *, share: str | None) -> None:
        """Goes to a place in this worker's share of the data (None: to its start) and tells that it has joined."""
        ...


class WorkerTransfer:
    """Packs this rank's inner optimizer, learning rate, step, and all that the outer loop holds. The parameters need
    not go, unless they are among the states: a worker that joins begins with the anchor.

    Args:
        states: inner optimizer and learning rate, by name, as they go into a checkpoint, in the order of loading.
        worker: id of this worker.
        trainer: whose step it is.
    """

    outer: OuterLoop
    """To be set: it needs this object for its construction."""

    def __init__(self, states: Mapping[str, Any], *, worker: int, trainer: Joining):
        self._states = dict(states)
        self._worker = worker
        self._trainer = trainer

    def pack(self) -> bytes:
        packed = {
            "step": self._trainer.step,
            "states": {name: _local(state.state_dict()) for name, state in self._states.items()},
            "tensors": _local(self.outer.global_tensors()),
            "position": self.outer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(packed, buffer)
        return buffer.getvalue()

    def unpack(self, state: bytes) -> None:
        packed = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        self.outer.prepare_to_load(packed["step"], in_flight="mean" in packed["tensors"])
        for name, part in self._states.items():
            part.load_state_dict(_fill(part.state_dict(), packed["states"][name]))
        _fill(self.outer.global_tensors(), packed["tensors"])
        self.outer.load_state_dict(packed["position"])
        self.outer.begin_windows()
        self._trainer.step = packed["step"]
        self._trainer.joined(share=self.outer.membership.shares.get(self._worker))


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
