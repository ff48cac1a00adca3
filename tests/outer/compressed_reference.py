"""Compressed rounds written down from their definition (PAPER 3.3 and 3.4), for all workers at once.

Given are the codecs, which have tests of their own, and how a fragment is cut into pieces (`exchange.split`), as the
numbers depend on it.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from muloco.outer.codecs import Codec
from muloco.outer.protocol.exchange import split

from .reference import Nesterov


class Feedback:
    """e = decay r + gain value; what is sent is Q(e); r = e - alpha Q(e). The gain is that of senders alone."""

    def __init__(self, decay: float = 0.9, alpha: float = 1.0, gain: float = 1.0):
        self.decay, self.alpha, self.gain = decay, alpha, gain


class CompressedRounds:
    """Means of a fragment, round after round.

    Args:
        shapes: of its tensors.
        codecs: of each tensor; None: it travels as fp32.
        reduce: `reselect`, `gather` or `requantize`.
        feedback: None: without.
    """

    def __init__(self, shapes: Sequence[tuple], codecs: Sequence[Codec | None], reduce: str, feedback: Feedback | None):
        self.shapes, self.codecs, self.reduce, self.feedback = shapes, codecs, reduce, feedback
        self.elements = sum(map(math.prod, shapes))
        self.sent: dict[int, Tensor] = {}
        """What each worker has left of its own pseudogradients."""
        self.owned: dict[int, Tensor] = {}
        """What each worker has left of the means that it owned in the last round, 0 elsewhere."""
        self.dropped: dict[int, int] = {}
        """By worker: how many elements of `owned` it has lost to others."""
        self._owner: dict[int, Tensor] = {}

    def mean(self, vectors: Mapping[int, Tensor], weights: Mapping[int, int]) -> Tensor:
        """Of these workers' vectors, in the order of the workers."""
        workers = sorted(vectors)
        parts = split(self.shapes, len(workers) if self.reduce == "reselect" else 1)
        sent, owned = {}, {}
        for worker in workers:
            left = torch.zeros(self.elements)
            sent[worker] = torch.zeros(self.elements)
            for pieces in parts:
                self._pass(pieces, vectors[worker], sent[worker], self.sent.get(worker), left, self.feedback)
            self.sent[worker] = left
        mean = torch.zeros(self.elements)
        for worker in workers:
            share = weights[worker] / sum(weights.values())
            if share:
                mean = torch.add(mean, sent[worker], alpha=share)
        if self.reduce == "gather":
            return mean
        arrived = torch.zeros(self.elements)
        if self.reduce == "requantize":
            self._pass(parts[0], mean, arrived, None, torch.zeros(self.elements), None)
            return arrived
        at_owners = self.feedback and Feedback(self.feedback.decay, self.feedback.alpha)
        for worker, pieces in zip(workers, parts, strict=True):
            left = torch.zeros(self.elements)
            self._pass(pieces, mean, arrived, self.owned.get(worker), left, at_owners)
            mine = torch.zeros(self.elements, dtype=torch.bool)
            for piece in pieces:
                mine[piece.start : piece.start + piece.elements] = self.codecs[piece.tensor] is not None
            before = self._owner.get(worker, torch.zeros_like(mine))
            self.dropped[worker] = self.dropped.get(worker, 0) + int((before & ~mine).sum())
            self._owner[worker], owned[worker] = mine, left
        self.owned = owned
        return arrived

    def _pass(
        self,
        pieces,
        values: Tensor,
        arrived: Tensor,
        residual: Tensor | None,
        left: Tensor,
        feedback: Feedback | None,
    ) -> None:
        """What arrives of some pieces of `values`, and what is left of them."""
        for piece in pieces:
            at, codec = slice(piece.start, piece.start + piece.elements), self.codecs[piece.tensor]
            value = values[at].view(piece.shape)
            if codec is None:
                arrived[at] = value.flatten()
                continue
            if feedback is not None:
                old = torch.zeros(self.elements) if residual is None else residual
                value = feedback.decay * old[at].view(piece.shape) + feedback.gain * value
            decoded = codec.decode(codec.encode(value), piece.shape)
            arrived[at] = decoded.flatten()
            if feedback is not None:
                left[at] = (value - feedback.alpha * decoded).flatten()


def diloco(
    rounds: CompressedRounds,
    start: Mapping[str, Tensor],
    drift: Callable[[int, int], Mapping[str, Tensor]],
    *,
    workers: int,
    interval: int,
    steps: int,
    lr: float,
    momentum: float,
    present: Callable[[int], Sequence[int]] | None = None,
) -> dict[str, Tensor]:
    """The anchor of K workers in one fragment, without delay, after `steps`, a multiple of the interval."""
    anchor = {name: tensor.clone() for name, tensor in start.items()}
    outer = Nesterov(momentum)
    for step in range(interval, steps + 1, interval):
        vectors = {}
        for worker in range(workers) if present is None else present(step):
            local = {name: tensor.clone() for name, tensor in anchor.items()}
            for inner in range(step - interval + 1, step + 1):
                for name, change in drift(worker, inner).items():
                    local[name] += change
            vectors[worker] = torch.cat([(anchor[name] - local[name]).flatten() for name in anchor])
        mean = rounds.mean(vectors, dict.fromkeys(vectors, interval))
        parts = mean.split([tensor.numel() for tensor in anchor.values()])
        gradients = {name: part.view_as(anchor[name]) for name, part in zip(anchor, parts, strict=True)}
        outer(anchor, gradients, lr)
    return anchor
