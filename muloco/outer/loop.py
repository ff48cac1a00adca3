"""The outer loop of one worker: it is told of each inner step and, every H of them, meets the other workers."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from muloco.outer.digest import as_hex, digest
from muloco.outer.exchange import average
from muloco.outer.transport import Round, Transport


class AnchorMismatch(RuntimeError):
    """Workers hold different anchors: something has corrupted the state, or they did not start alike."""


class NonFinitePseudogradient(RuntimeError):
    """A worker's pseudogradient holds NaN or Inf."""


@dataclass(frozen=True, kw_only=True)
class Sync:
    """What one round did, seen by one worker."""

    fragment: int
    participants: int
    bytes_sent: int
    """By this rank, to other workers."""
    seconds_waited: float
    """From the end of the inner step to the new anchor."""
    seconds_hidden: float
    """Part of the exchange that ran beside inner steps."""
    digest: int
    """64-bit checksum of the new anchor (this rank's part of it)."""


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What a member tells the others before its payload."""

    worker: int
    weight: int
    finite: bool
    digest: int

    def to_tensor(self, device: torch.device) -> torch.Tensor:
        return torch.tensor([self.worker, self.weight, int(self.finite), self.digest], device=device)

    @staticmethod
    def from_tensor(tensor: torch.Tensor) -> "_Header":
        worker, weight, finite, digest = tensor.tolist()
        return _Header(worker=worker, weight=weight, finite=bool(finite), digest=digest)


class OuterLoop:
    """DiLoCo's outer loop over one worker's parameters (PAPER 3.1).

    Args:
        parameters: this rank's part of every parameter, by name: plain tensors, changed in place. All workers give the
            same names and shapes, and start from the same values.
        build_optimizer: makes the outer optimizer for the anchor tensors.
        transport: meets the other workers.
        worker: id of this worker, from 0.
        sync_interval: H, inner steps between two outer steps.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        build_optimizer: Callable[[Sequence[torch.Tensor]], torch.optim.Optimizer],
        transport: Transport,
        *,
        worker: int,
        sync_interval: int,
    ):
        if sync_interval < 1:
            raise ValueError(f"sync_interval must be at least 1; got {sync_interval}")
        self._parameters = dict(parameters)
        self.anchor = {name: tensor.detach().clone() for name, tensor in self._parameters.items()}
        """The global parameters of the last sync, by name."""
        self.optimizer = build_optimizer(list(self.anchor.values()))
        self._transport = transport
        self._worker = worker
        self._sync_interval = sync_interval
        self._window = 0  # inner steps since the last sync

    def after_inner_step(self, step: int, *, last: bool = False) -> Sync | None:
        """To be called after every inner step, with its number; `last` makes a short final window count.

        Returns:
            what the sync did, where this step ended a window.

        Raises:
            TransportError: another worker is gone.
            AnchorMismatch, NonFinitePseudogradient: the run has gone wrong; the message names worker and tensor.
        """
        self._window += 1
        if self._window < self._sync_interval and not last:
            return None
        started = time.perf_counter()
        round = self._transport.open(step)
        mean = self._pseudogradient()
        self._exchange(round, mean)
        self._outer_step(mean)
        self._window = 0
        return Sync(
            fragment=0,
            participants=round.size,
            bytes_sent=round.bytes_sent,
            seconds_waited=time.perf_counter() - started,
            seconds_hidden=0.0,
            digest=int(digest(self.anchor.values())),
        )

    @property
    def in_mid_window(self) -> bool:
        """Whether inner steps have been taken since the last sync, so that the parameters are not the anchor."""
        return self._window > 0

    @contextlib.contextmanager
    def anchor_weights(self) -> Iterator[None]:
        """Within the context the parameters hold the anchor; the local values come back afterwards."""
        if not self.in_mid_window:
            yield
            return
        local = {name: tensor.clone() for name, tensor in self._parameters.items()}
        self._load(self.anchor)
        try:
            yield
        finally:
            self._load(local)

    def state_dict(self) -> dict[str, int]:
        """Position in the window: what is this worker's own. Anchor and optimizer are the same on all workers."""
        return {"window": self._window}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._window = state["window"]

    def global_tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """The state that all workers share, by kind and parameter name: the anchor and each buffer of the outer
        optimizer. The tensors are the loop's own, so that writing into them restores it."""
        tensors = {"anchor": dict(self.anchor)}
        for name, tensor in self.anchor.items():
            for key, value in self.optimizer.state[tensor].items():
                if isinstance(value, torch.Tensor):
                    tensors.setdefault(f"outer_{key}", {})[name] = value
        return tensors

    def close(self) -> None:
        self._transport.close()

    def _pseudogradient(self) -> torch.Tensor:
        """anchor - parameters, fp32, as one vector where the transport wants it."""
        differences = [
            (self.anchor[name].float() - tensor.detach().float()).view(-1) for name, tensor in self._parameters.items()
        ]
        return torch.cat(differences).to(self._transport.device)

    def _exchange(self, round: Round, flat: torch.Tensor) -> None:
        own = _Header(
            worker=self._worker,
            weight=self._window,
            finite=bool(torch.isfinite(flat).all()),
            digest=int(digest(self.anchor.values())),
        )
        headers = [_Header.from_tensor(t) for t in round.all_gather(own.to_tensor(flat.device))]
        self._refuse_mismatch(headers)
        self._refuse_non_finite(headers, flat)
        average(round, flat, [header.weight for header in headers])
        if not round.commit(ok=True):
            raise RuntimeError("another worker refused to commit the round; its log says why")

    def _outer_step(self, mean: torch.Tensor) -> None:
        parts = mean.split([tensor.numel() for tensor in self.anchor.values()])
        for tensor, part in zip(self.anchor.values(), parts, strict=True):
            tensor.grad = part.view_as(tensor).to(tensor.device, tensor.dtype)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._load(self.anchor)

    def _load(self, values: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._parameters.items():
                tensor.copy_(values[name])

    @staticmethod
    def _refuse_mismatch(headers: Sequence[_Header]) -> None:
        if len({header.digest for header in headers}) > 1:
            digests = ", ".join(f"worker {header.worker}: {as_hex(header.digest)}" for header in headers)
            raise AnchorMismatch(f"the workers' anchors differ ({digests})")

    def _refuse_non_finite(self, headers: Sequence[_Header], flat: torch.Tensor) -> None:
        guilty = [header.worker for header in headers if not header.finite]
        if not guilty:
            return
        where = ""
        if self._worker in guilty:
            parts = flat.split([tensor.numel() for tensor in self.anchor.values()])
            bad = [name for name, part in zip(self.anchor, parts, strict=True) if not torch.isfinite(part).all()]
            where = f"; on worker {self._worker} in {', '.join(bad)}"
        raise NonFinitePseudogradient(f"NaN or Inf in the pseudogradient of worker {guilty}{where}")
