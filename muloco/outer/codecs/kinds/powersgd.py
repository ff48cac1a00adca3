"""A matrix of low rank, found by one step of subspace iteration from that of the round before."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muloco.outer.codecs.codec import StatefulCodec, as_matrix, no_grad, setting, settle
from muloco.settings.annotations import Count

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SEED = 1905


@dataclass(frozen=True, kw_only=True)
class PowerSGD(StatefulCodec, kind="powersgd", about="a matrix of rank `rank`, which follows the piece round by round"):
    """PowerSGD (Vogels, Karimireddy and Jaggi 2019, arXiv 1905.13727, algorithm 1) for one sender and one piece M, as a
    matrix of its first dimension by all others: P = orthogonalize(M Q), Q' = M^T P, decoded P Q'^T. The columns of Q'
    are the Q of the next round (warm start), so that Q follows the leading singular vectors of M.

    In the paper the workers average M Q, and then M^T P, over all of them, and so find one approximation of the mean.
    Here every sender encodes its own piece, the owner of the piece averages what it decodes, and encodes the mean again
    with a Q of its own, as with any other codec: the mean of K pieces has rank K r before it is encoded again, each
    worker sends P and Q' instead of their shares of a ring, and two rounds of messages are enough. Error feedback makes
    up for what is lost, as in the paper, and should be on.

    Payload: P by columns, then Q' by columns, fp32. A piece that this would not make smaller, such as a vector, travels
    as fp32. Decoding adds r outer products one after the other, so that all devices decode the same bits. Products are
    taken in fp32: a piece whose products overflow, with elements near the largest fp32 number, decodes to something
    that is not finite, and its next Q is the one before.
    """

    keeps = "the leading directions"

    rank: Count = setting(
        "Columns of the two factors that a matrix is sent as; at most the smallest side of the model's matrices.",
        derived=4,
        reason="compression.kind {kind}: a low rank",
    )

    @property
    def size(self) -> str:
        return f"rank {self.rank}"

    def payload_bytes(self, shape: Sequence[int]) -> int:
        rows, columns = as_matrix(shape, by_row=True)
        return 4 * (self.rank * (rows + columns) if self._factored(shape) else rows * columns)

    def obstacle(self, shapes: Mapping[str, Sequence[int]]) -> str:
        sides = {name: min(as_matrix(shape, by_row=True)) for name, shape in shapes.items() if len(shape) > 1}
        name = min(sides, key=sides.__getitem__, default="")
        if not sides or self.rank <= sides[name]:
            return ""
        matrix = f"{name} {list(shapes[name])}"
        return f"rank {self.rank} is more than the smaller side of {matrix}; it must be from 1 to {sides[name]}"

    def state_elements(self, shape: Sequence[int]) -> int:
        return self.rank * as_matrix(shape, by_row=True)[1] if self._factored(shape) else 0

    def first_state(self, shape: Sequence[int], device: torch.device) -> Tensor:
        return _first(self.state_elements(shape), device)

    @no_grad
    def encode_from(self, pieces: Sequence[Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        shape = pieces[0].shape
        numbers = torch.empty(len(pieces), self.payload_bytes(shape) // 4, device=pieces[0].device)
        after = states.clone()
        for piece, number, state in zip(pieces, numbers, after, strict=True):
            if not self._factored(shape):
                number.copy_(piece.detach().reshape(-1))
                continue
            rows, columns = as_matrix(shape, by_row=True)
            # copies, since how products are rounded may depend on where in memory their factors begin
            matrix = torch.empty(rows, columns, device=piece.device).copy_(piece.detach().reshape(rows, columns))
            before = state.clone().view(self.rank, columns)
            left = _orthogonalized(before @ matrix.t())
            right = left @ matrix
            torch.cat([left.view(-1), right.view(-1)], out=number)
            state.copy_(_start(right, before).view(-1))
        return numbers.view(torch.uint8), after

    @no_grad
    def decode_pieces(
        self, payloads: Tensor, targets: Sequence[Tensor], *, weight: float = 1.0, add: bool = False
    ) -> None:
        import torch

        shape = targets[0].shape
        rows, columns = as_matrix(shape, by_row=True)
        for payload, target in zip(payloads, targets, strict=True):
            numbers = payload.clone().view(torch.float32)  # a clone is aligned
            if self._factored(shape):
                left, right = numbers.split([self.rank * rows, self.rank * columns])
                left, right = left.view(self.rank, rows, 1), right.view(self.rank, 1, columns)
                numbers = left[0] * right[0]
                for number in range(1, self.rank):
                    numbers += left[number] * right[number]
            settle([target], [numbers.view(shape)], weight, add)

    def _factored(self, shape: Sequence[int]) -> bool:
        """Whether a piece of that shape is sent as two factors."""
        rows, columns = as_matrix(shape, by_row=True)
        return len(shape) > 1 and self.rank * (rows + columns) < rows * columns


@functools.cache
def _first(elements: int, device: torch.device) -> Tensor:
    """The Q that all workers begin with, normally distributed: fp32 [elements]. Callers do not change it."""
    import torch

    return torch.randn(elements, generator=torch.Generator().manual_seed(_SEED)).to(device)


def _orthogonalized(rows: Tensor) -> Tensor:
    """Gram-Schmidt, twice, on rows [r, n]: each of length 1 and orthogonal to those before, or else 0."""
    import torch

    done = rows[:0]
    for row in rows.unbind():
        once = _unit(row - done.t() @ (done @ row))
        twice = once - done.t() @ (done @ once)
        # What the second pass shortens by much is rounding error of the first, in a direction that may be an earlier
        # row's. NaN stays.
        noise = torch.linalg.vector_norm(twice) < 0.5
        done = torch.cat([done, torch.where(noise, 0.0, _unit(twice))[None]])
    return done


def _unit(row: Tensor) -> Tensor:
    """The row with length 1, however small or large its elements are; 0 stays 0."""
    import torch

    for order in (torch.inf, 2):
        length = torch.linalg.vector_norm(row, order)
        row = row / torch.where(length == 0, 1.0, length)
    return row


def _start(right: Tensor, before: Tensor) -> Tensor:
    """The next Q, by rows: the new one with a largest element of 1, and the one before where a row is 0 or not
    finite."""
    import torch

    largest = right.abs().amax(1, keepdim=True)
    usable = largest.isfinite() & (largest > 0)
    return torch.where(usable, right / torch.where(usable, largest, 1.0), before)
