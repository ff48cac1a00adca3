"""One fragment of the model on one rank: its anchor, its outer optimizer, its place in the window."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import torch

from muloco import sharding
from muloco.outer.codecs.channel import Channel
from muloco.outer.codecs.compression import Compression
from muloco.outer.loop.digest import digest

OuterOptimizer = Callable[[Mapping[str, torch.Tensor]], torch.optim.Optimizer]
"""Makes the outer optimizer for anchor tensors, by name; they may be DTensors."""
Merging = Callable[[Iterable[str]], AbstractContextManager[object]]
"""Context in which parameters are written, given their names."""


class FragmentState:
    """The outer loop's state of some parameters, and of the buffers that are averaged with them.

    A fragment travels as one vector: the pseudogradients of its parameters, and behind them the values of its buffers.
    The mean of the former is a gradient for the outer optimizer; that of the latter is the new anchor of the buffers.

    Args:
        parameters: plain tensors or DTensors, by name; changed in place.
        build_optimizer: makes the outer optimizer for the anchor of the parameters.
        buffers: plain tensors or DTensors of a floating dtype, by name; changed in place. They travel as fp32 without
            loss, whatever the compression. None: there are none.
        compression: how the pseudogradients travel; None: as they are.
        device: where anchor and outer state are kept; None: with the parameters. Elsewhere the optimizer sees this
            rank's part of every tensor as a plain tensor.
        merging: around every merge of the parameters.

    Raises:
        ValueError: a buffer has no floating dtype.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        build_optimizer: OuterOptimizer,
        *,
        buffers: Mapping[str, torch.Tensor] | None = None,
        compression: Compression | None = None,
        device: torch.device | None = None,
        merging: Merging = contextlib.nullcontext,
    ):
        for name, buffer in (buffers or {}).items():
            if not buffer.is_floating_point():
                raise ValueError(f"only buffers of a floating dtype have a mean; {name} is of {buffer.dtype}")
        self._merging = merging
        self.parameters = {name: sharding.local(tensor).detach() for name, tensor in parameters.items()}
        self.buffers = {name: sharding.local(tensor).detach() for name, tensor in (buffers or {}).items()}
        self.tensors = self.parameters | self.buffers
        """This rank's part of everything that is synced, by name."""
        self.anchor = {name: _keep(tensor, device) for name, tensor in self.tensors.items()}
        """This rank's part of the global parameters and buffers as of the last outer step, by name: plain tensors."""
        self._copies = {name: sharding.copies(tensor) for name, tensor in parameters.items()}
        self.window = 0
        """Inner steps since the tensors were last merged with the anchor."""
        self.merged_with_local = False
        """Whether the last merge kept a fraction of the local values."""
        self.outer_steps = 0
        compression = compression or Compression()
        self.channel = Channel(replace(compression, dense=compression.dense | self.buffers.keys()), self.anchor)
        """Encodes the fragment, and keeps its residuals and states of codecs on this rank."""
        self._handles = {  # what the optimizer moves: the same memory, known as sharded where it is
            name: self._handle(name, like=tensor) for name, tensor in parameters.items()
        }
        self.optimizer = build_optimizer(self._handles)
        self._make_optimizer_state()

    @property
    def elements(self) -> int:
        """Number of elements of this rank's part."""
        return sum(tensor.numel() for tensor in self.anchor.values())

    def views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors in a vector of all of them, by name, in the vector's memory."""
        parts = flat.split([tensor.numel() for tensor in self.anchor.values()])
        return {name: part.view_as(self.anchor[name]) for name, part in zip(self.anchor, parts, strict=True)}

    def product(self, first: torch.Tensor | None, second: torch.Tensor) -> float:
        """Returns this rank's part of the inner product of the parameters in two vectors. The sum over the ranks of a
        worker, whatever their layout, is the inner product of the whole tensors.

        Args:
            first: fp32 vector; None stands for that of `outgoing`, which is then computed tensor by tensor.
            second: fp32 vector.
        """
        total: float | torch.Tensor = 0.0
        views = {} if first is None else self.views(first)
        for name, part in self.views(second).items():
            if name in self.parameters:
                mine = self._difference(name, torch.empty_like(part)) if first is None else views[name]
                total = total + mine.flatten().dot(part.flatten()) / self._copies[name]
        return float(total)

    def outgoing(self) -> torch.Tensor:
        """Returns anchor - parameters, and behind it the buffers, as one fp32 vector on the device of the parameters.
        It is computed in place, tensor by tensor."""
        flat = torch.empty(self.elements, device=next(iter(self.parameters.values())).device)
        for name, part in self.views(flat).items():
            if name in self.parameters:
                self._difference(name, part)
            else:
                part.copy_(self.buffers[name])
        return flat

    def _handle(self, name: str, *, like: torch.Tensor) -> torch.Tensor:
        """Returns the anchor of a parameter, known as sharded as `like` is where it lies beside it."""
        anchor = self.anchor[name]
        return anchor if anchor.device != self.parameters[name].device else sharding.wrap(anchor, like=like)

    def _difference(self, name: str, out: torch.Tensor) -> torch.Tensor:
        """Writes anchor - parameter to `out`, fp32 of the shape of the parameter, and returns `out`."""
        anchor, parameter = self.anchor[name], self.parameters[name]
        if anchor.device == parameter.device and torch.promote_types(anchor.dtype, parameter.dtype) == out.dtype:
            return torch.sub(anchor, parameter, out=out)
        return out.copy_(anchor, non_blocking=True).sub_(parameter)  # in fp32, without a copy of either tensor

    def step(self, mean: torch.Tensor, *, lr: float | None = None) -> None:
        """The outer step: moves the anchor of the parameters, with their mean pseudogradient as its gradient. The
        anchor of the buffers becomes their mean.

        Args:
            mean: fp32 vector, as `outgoing` orders it.
            lr: outer learning rate from now on; None: as it is.
        """
        for name, part in self.views(self._beside_anchor(mean)).items():
            if name in self.buffers:
                self.anchor[name].copy_(part)
                continue
            handle = self._handles[name]
            handle.grad = sharding.wrap(part.to(self.anchor[name].dtype), like=handle)
        if lr is not None:
            self._set_lr(lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.outer_steps += 1

    def merge(self, alpha: float = 0.0) -> None:
        """tensors <- alpha tensors + (1 - alpha) anchor, parameters and buffers alike: a new window begins."""
        with self._merging(self.parameters):
            for name, tensor in self.tensors.items():
                if alpha:
                    tensor.lerp_(self.anchor[name].to(tensor.device, tensor.dtype, non_blocking=True), 1 - alpha)
                else:
                    tensor.copy_(self.anchor[name], non_blocking=True)
        self.merged_with_local = alpha > 0
        self.window = 0

    def begin(self) -> None:
        """Parameters and buffers become the anchor, with which a window begins, and nothing is kept of earlier
        rounds."""
        self.merge()
        self.channel.clear()

    def digest(self) -> torch.Tensor:
        """64-bit checksum of this rank's part of the anchor, an int64 scalar."""
        return digest(self.anchor.values())

    def global_tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """The anchor and the outer optimizer's buffers of its shape, by kind and parameter name: this rank's parts, in
        the memory that is in use, so that writing into them restores it."""
        tensors = {"anchor": dict(self.anchor)}
        for name, handle in self._handles.items():
            for key, value in self.optimizer.state[handle].items():
                if isinstance(value, torch.Tensor) and key != "step":
                    tensors.setdefault(f"outer_{key}", {})[name] = sharding.local(value)
        return tensors

    def residuals(self, device: torch.device) -> dict[str, dict[str, torch.Tensor]]:
        """Returns copies of the residuals on this rank, by kind and parameter name."""
        return {kind: self.views(vector) for kind, vector in self.channel.residuals(device).items()}

    def load_residuals(self, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Continues with what `residuals` returned."""
        self.channel.load_residuals(
            {kind: torch.cat([values[name].flatten() for name in self.anchor]) for kind, values in tensors.items()}
        )

    def load_position(self, *, window: int, outer_steps: int) -> None:
        """Goes on at a saved position; the tensors are restored through `global_tensors`."""
        self.window = window
        self.outer_steps = outer_steps
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] = torch.full_like(state["step"], outer_steps)

    def _beside_anchor(self, vector: torch.Tensor) -> torch.Tensor:
        """Returns the vector on the device of the anchor. A copy to the host goes to page-locked memory, and the host
        waits for it."""
        if next(iter(self.anchor.values())).device.type == vector.device.type:
            return vector
        host = sharding.to_host(vector)
        torch.accelerator.current_stream(vector.device).synchronize()
        return host

    def _make_optimizer_state(self) -> None:
        """All buffers are there from the start, as zeros, so that a checkpoint always finds them: by one step of lr 0
        on a gradient of zeros."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for handle in self._handles.values():
            handle.grad = torch.zeros_like(handle)
        self._set_lr(0.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        for name, tensor in self.parameters.items():
            self.anchor[name].copy_(tensor)
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr


def checksums(fragments: Iterable[FragmentState]) -> torch.Tensor:
    """Returns the digests of these fragments by which workers find out whether they hold the same: an int64 vector of
    two, of this rank's parts of the anchors and of the outer optimizers' buffers, on the device of the anchors."""
    held = [fragment.global_tensors() for fragment in fragments]
    anchors = digest(tensor for kinds in held for tensor in kinds.pop("anchor").values())
    outer = digest(tensor for kinds in held for kind in sorted(kinds) for tensor in kinds[kind].values())
    return torch.stack([anchors, outer.to(anchors.device)])


def _keep(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    """A copy on the device; on the CPU beside an accelerator pinned, so that copies go beside the inner steps."""
    if device is None or device == tensor.device:
        return tensor.clone()
    return torch.empty_like(tensor, device=device, pin_memory=device.type == "cpu").copy_(tensor)
