"""The common part of the quantized kinds: rows, blocks, metadata of each row, packed codes.

On a GPU Triton kernels process all pieces at once (`kernels`). Elsewhere torch's operations process one piece after the
other, in blocks that fit into a CPU's caches.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from muloco.outer.codecs.codec import Codec
from muloco.outer.codecs.packing import block_elements, pack, packed_bytes, unpack

if TYPE_CHECKING:
    from muloco.outer.codecs.kernels import Stack

ONE = 2**24
"""The integer that stands for a value of 1 in integer sums of values; an fp32 number has as many digits."""


def takes_kernels(device: torch.device) -> bool:
    """Whether the kernels are used on a device. They need Triton, which CUDA builds of torch include."""
    return device.type == "cuda"


@dataclass(frozen=True)
class Quantized(Codec):
    """Sends a code of `bits` bits for each element and fp32 metadata for each row; see `muloco.outer.codecs`."""

    bits: int
    by_row: bool

    @property
    def levels(self) -> int:
        """Number of codes."""
        return 2**self.bits

    linear = False
    """Whether codes count even steps; otherwise each code has its own level."""

    @property
    @abstractmethod
    def metadata(self) -> int:
        """How many numbers of metadata a row has."""

    @abstractmethod
    def quantize(self, rows: Tensor, codes: Tensor) -> Tensor:
        """Finds metadata and codes of a few rows.

        Args:
            rows: fp32 [r, n], n at least 1.
            codes: uint8 [r, n], overwritten by numbers below `levels`.

        Returns:
            fp32 [r, metadata].
        """

    @abstractmethod
    def dequantize(self, metadata: Tensor, codes: Tensor) -> Tensor:
        """What metadata [r, metadata] and codes [r, n] say, fp32 [r, n].

        By a look-up, or by operations that round alike on all devices: one product or one sum each.
        """

    @abstractmethod
    def quantize_stack(self, stack: "Stack", codes: Tensor) -> Tensor:
        """Does with kernels what `quantize` does, for all rows of many pieces, and packs the codes.

        Args:
            stack: t pieces of r rows each.
            codes: uint8 [t, bytes of the packed codes of a piece], overwritten.

        Returns:
            the metadata of all rows, fp32 [t r, metadata].
        """

    def payload_bytes(self, shape: Sequence[int]) -> int:
        rows, columns = self._matrix(shape)
        return 4 * rows * self.metadata + packed_bytes(rows * columns, self.bits)

    @torch.no_grad()
    def encode_pieces(self, pieces: Sequence[Tensor]) -> Tensor:
        first = pieces[0]
        rows, columns = self._matrix(first.shape)
        matrices = [piece.detach().to(torch.float32).contiguous().view(rows, columns) for piece in pieces]
        payloads = torch.empty(len(pieces), self.payload_bytes(first.shape), dtype=torch.uint8, device=first.device)
        if rows and takes_kernels(first.device):
            self._encode_by_kernels(matrices, payloads)
        else:
            for matrix, payload in zip(matrices, payloads, strict=True):
                self._encode_matrix(matrix, payload)
        return payloads

    @torch.no_grad()
    def decode_pieces(
        self, payloads: Tensor, targets: Sequence[Tensor], *, weight: float = 1.0, add: bool = False
    ) -> None:
        rows, columns = self._matrix(targets[0].shape)
        matrices = [target.view(rows, columns) for target in targets]
        if rows and takes_kernels(payloads.device):
            self._decode_by_kernels(payloads, matrices, weight, add)
        else:
            for payload, matrix in zip(payloads, matrices, strict=True):
                self._decode_matrix(payload, matrix, weight, add)

    def _encode_matrix(self, matrix: Tensor, payload: Tensor) -> None:
        """Encodes a matrix into `payload`."""
        rows, columns = matrix.shape
        codes = torch.empty(rows, columns, dtype=torch.uint8, device=matrix.device)
        metadata = torch.empty(rows, self.metadata, device=matrix.device)
        for some in self._groups(rows, columns, matrix.device):
            metadata[some] = self.quantize(matrix[some], codes[some])
        torch.cat([metadata.view(-1).view(torch.uint8), pack(codes.view(-1), self.bits)], out=payload)

    def _decode_matrix(self, payload: Tensor, matrix: Tensor, weight: float, add: bool) -> None:
        """Overwrites a matrix by `weight` x the decoded payload, or adds this to it."""
        rows, columns = matrix.shape
        before, behind = payload.tensor_split([4 * rows * self.metadata])
        metadata = before.clone().view(torch.float32).view(rows, self.metadata)  # a clone is aligned
        codes = unpack(behind, self.bits, rows * columns).view(rows, columns)
        for some in self._groups(rows, columns, matrix.device):
            for target, source in zip(blocks(matrix[some]), blocks(codes[some]), strict=True):
                value = self.dequantize(metadata[some], source)
                if add:
                    target.add_(value, alpha=weight)
                else:
                    torch.mul(value, weight, out=target)

    def _encode_by_kernels(self, matrices: Sequence[Tensor], payloads: Tensor) -> None:
        from muloco.outer.codecs.kernels import Stack

        rows, columns = matrices[0].shape
        if len({matrix.untyped_storage().data_ptr() for matrix in matrices}) > 1:
            matrices = torch.stack(tuple(matrices)).unbind()
        before, behind = payloads.tensor_split([4 * rows * self.metadata], dim=1)
        metadata = self.quantize_stack(Stack.of(matrices, rows, columns), behind)
        before.copy_(metadata.view(len(matrices), -1).view(torch.uint8))

    def _decode_by_kernels(self, payloads: Tensor, matrices: Sequence[Tensor], weight: float, add: bool) -> None:
        from muloco.outer.codecs.kernels import Stack

        rows, columns = matrices[0].shape
        before, behind = payloads.tensor_split([4 * rows * self.metadata], dim=1)
        metadata = torch.empty(before.shape, dtype=torch.uint8, device=before.device).copy_(before).view(torch.float32)
        stack = Stack.of(matrices, rows, columns)
        stack.unpack(behind, self.bits, metadata.view(-1, self.metadata), self.linear, weight, add)

    def _matrix(self, shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns that a piece of that shape is taken as."""
        elements = math.prod(shape)
        if elements == 0:
            return 0, 0
        rows = shape[0] if self.by_row and len(shape) > 1 else 1
        return rows, elements // rows

    def _groups(self, rows: int, columns: int, device: torch.device) -> Iterator[slice]:
        """As many rows at once as fill a block, counting their codebooks."""
        step = max(1, block_elements(device) // max(columns, self.levels, 1))
        for start in range(0, rows, step):
            yield slice(start, start + step)


def blocks(rows: Tensor) -> tuple[Tensor, ...]:
    """[r, n] in blocks of columns, of the size that `block_elements` gives."""
    return rows.split(max(1, block_elements(rows.device) // len(rows)), dim=1)


def extremes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest element of each row, [r, 1] each; NaN where the row has one."""
    return rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)


def moments(rows: Tensor, least: Tensor, greatest: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of a sample: over n - 1; 0 where n = 1) of each row, fp32 [r, 1] each.

    Squares are taken of elements over the greatest magnitude, so that they stay in the range of fp32.
    """
    count = rows.shape[1]
    scale = torch.maximum(least.abs(), greatest.abs())
    scale = torch.where(scale > 0, scale, 1.0)
    mean = _row_sums(block / scale for block in blocks(rows)) / count
    squares = _row_sums((block / scale).sub_(mean.float()).square_() for block in blocks(rows))
    sigma = (squares / max(count - 1, 1)).sqrt()
    return (mean * scale).float(), (sigma * scale).float()


def _row_sums(parts: Iterable[Tensor]) -> Tensor:
    """fp64 [r, 1], over fp32 blocks of columns."""
    return torch.stack([part.sum(1, keepdim=True).double() for part in parts]).sum(0)


def look_up(levels: Tensor, codes: Tensor) -> Tensor:
    """levels[row, code] for levels [r, L] and whole numbers below L as codes [r, n]."""
    index = codes.to(torch.int32, copy=True)
    if len(levels) > 1:
        index += torch.arange(0, levels.numel(), levels.shape[1], dtype=torch.int32, device=codes.device).view(-1, 1)
    return levels.reshape(-1).index_select(0, index.view(-1)).view(codes.shape)


class Totals:
    """How many values fell into each cell of a row, and their sum: integers, so that no order of adding them matters.

    Args:
        rows: r.
        cells: number of cells a row.
        device: where.
    """

    _LANES = 4  # a single row is added up in parts: CPUs are twice as fast at it

    def __init__(self, rows: int, cells: int, device: torch.device):
        self._rows = rows
        lanes = self._LANES if rows == 1 else rows
        self._counts = torch.zeros(lanes, cells, dtype=torch.int64, device=device)
        self._sums = torch.zeros_like(self._counts)

    def add(self, cells: Tensor, values: Tensor) -> None:
        """Counts fp32 values [r, n], of a mean magnitude below 100, into cells [r, n] (int64); overwrites `values`."""
        lanes = len(self._counts)
        if self._rows == 1:
            lanes = lanes if cells.numel() % lanes == 0 else 1
            cells, values = cells.view(lanes, -1), values.view(lanes, -1)
        ones = torch.ones((), dtype=torch.int64, device=cells.device).expand_as(cells)
        self._counts[:lanes].scatter_add_(1, cells, ones)
        self._sums[:lanes].scatter_add_(1, cells, values.mul_(ONE).to(torch.int64))

    @property
    def counts(self) -> Tensor:
        """fp64 [r, cells], whole numbers."""
        return self._of_rows(self._counts).double()

    @property
    def sums(self) -> Tensor:
        """fp64 [r, cells]."""
        return self._of_rows(self._sums).double() / ONE

    def _of_rows(self, totals: Tensor) -> Tensor:
        return totals.sum(0, keepdim=True) if self._rows == 1 else totals
