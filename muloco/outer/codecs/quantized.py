"""The common part of the quantized kinds: rows, blocks, metadata of each row, packed codes.

On a GPU Triton kernels process all pieces at once (`kernels`). Elsewhere torch's operations process one piece after the
other, in blocks that fit into a CPU's caches.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from muloco.outer.codecs.codec import Codec, as_matrix, no_grad, packed_bytes, setting
from muloco.settings.annotations import Bits

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from muloco.outer.codecs.kernels import Stack

Granularity = Literal["tensor", "row"]


def takes_kernels(device: torch.device) -> bool:
    """Whether the kernels are used on a device. They need Triton, which CUDA builds of torch include."""
    return device.type == "cuda"


@dataclass(frozen=True, kw_only=True)
class Quantized(Codec):
    """Sends a code of `bits` bits for each element and fp32 metadata for each row.

    Payload: the metadata of the rows, one after the other; then the codes of all rows (`packing.pack`). A row or tensor
    that holds NaN or an infinity decodes to NaN throughout.
    """

    bits: Bits = setting("Bits of an element.", derived=4, reason="{kind} codes")
    granularity: Granularity = setting(
        "One set of levels for a tensor (or a worker's part of it), or one for each row.", default="tensor"
    )

    @property
    def size(self) -> str:
        return f"{self.bits} bits"

    @property
    def details(self) -> str:
        return "per row" if self.granularity == "row" else ""

    @property
    def levels(self) -> int:
        """Number of codes."""
        return 2**self.bits

    linear: ClassVar[bool] = False
    """Whether codes count even steps; otherwise each code has its own level, and the levels are the metadata."""

    @property
    def metadata(self) -> int:
        """How many numbers of metadata a row has."""
        return self.levels

    @abstractmethod
    def quantize(self, rows: Tensor, codes: Tensor) -> Tensor:
        """Finds metadata and codes of a few rows.

        Args:
            rows: fp32 [r, n], n at least 1.
            codes: uint8 [r, n], overwritten by numbers below `levels`.

        Returns:
            fp32 [r, metadata].
        """

    def dequantize(self, metadata: Tensor, codes: Tensor) -> Tensor:
        """Decodes codes [r, n] with metadata [r, metadata] to fp32 [r, n]. It uses a look-up, or operations that round
        alike on all devices: a single product or sum each.
        """
        from muloco.outer.codecs.rows import gather_levels

        return gather_levels(metadata, codes)

    @abstractmethod
    def quantize_stack(self, stack: Stack, codes: Tensor) -> Tensor:
        """Does with kernels what `quantize` does, for all rows of many pieces, and packs the codes.

        Args:
            stack: t pieces of r rows each.
            codes: uint8 [t, bytes of the packed codes of a piece], overwritten.

        Returns:
            the metadata of all rows, fp32 [t r, metadata].
        """

    def payload_bytes(self, shape: Sequence[int]) -> int:
        rows, columns = as_matrix(shape, self.granularity == "row")
        return 4 * rows * self.metadata + packed_bytes(rows * columns, self.bits)

    @no_grad
    def encode_pieces(self, pieces: Sequence[Tensor]) -> Tensor:
        import torch

        first = pieces[0]
        rows, columns = as_matrix(first.shape, self.granularity == "row")
        matrices = [piece.detach().to(torch.float32).contiguous().view(rows, columns) for piece in pieces]
        payloads = torch.empty(len(pieces), self.payload_bytes(first.shape), dtype=torch.uint8, device=first.device)
        if rows and takes_kernels(first.device):
            self._encode_by_kernels(matrices, payloads)
        else:
            for matrix, payload in zip(matrices, payloads, strict=True):
                self._encode_matrix(matrix, payload)
        return payloads

    @no_grad
    def decode_pieces(
        self, payloads: Tensor, targets: Sequence[Tensor], *, weight: float = 1.0, add: bool = False
    ) -> None:
        rows, columns = as_matrix(targets[0].shape, self.granularity == "row")
        matrices = [target.view(rows, columns) for target in targets]
        if rows and takes_kernels(payloads.device):
            self._decode_by_kernels(payloads, matrices, weight, add)
        else:
            for payload, matrix in zip(payloads, matrices, strict=True):
                self._decode_matrix(payload, matrix, weight, add)

    def _encode_matrix(self, matrix: Tensor, payload: Tensor) -> None:
        import torch

        from muloco.outer.codecs.packing import pack

        rows, columns = matrix.shape
        codes = torch.empty(rows, columns, dtype=torch.uint8, device=matrix.device)
        metadata = torch.empty(rows, self.metadata, device=matrix.device)
        for some in self._groups(rows, columns, matrix.device):
            metadata[some] = self.quantize(matrix[some], codes[some])
        torch.cat([metadata.view(-1).view(torch.uint8), pack(codes.view(-1), self.bits)], out=payload)

    def _decode_matrix(self, payload: Tensor, matrix: Tensor, weight: float, add: bool) -> None:
        """Overwrites a matrix by `weight` x the decoded payload, or adds this to it."""
        import torch

        from muloco.outer.codecs.packing import unpack
        from muloco.outer.codecs.rows import blocks

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
        import torch

        from muloco.outer.codecs.kernels import Stack

        rows, columns = matrices[0].shape
        if len({matrix.untyped_storage().data_ptr() for matrix in matrices}) > 1:
            matrices = torch.stack(tuple(matrices)).unbind()
        before, behind = payloads.tensor_split([4 * rows * self.metadata], dim=1)
        metadata = self.quantize_stack(Stack.of(matrices, rows, columns), behind)
        before.copy_(metadata.view(len(matrices), -1).view(torch.uint8))

    def _decode_by_kernels(self, payloads: Tensor, matrices: Sequence[Tensor], weight: float, add: bool) -> None:
        import torch

        from muloco.outer.codecs.kernels import Stack

        rows, columns = matrices[0].shape
        before, behind = payloads.tensor_split([4 * rows * self.metadata], dim=1)
        metadata = torch.empty(before.shape, dtype=torch.uint8, device=before.device).copy_(before).view(torch.float32)
        stack = Stack.of(matrices, rows, columns)
        stack.unpack(behind, self.bits, metadata.view(-1, self.metadata), self.linear, weight, add)

    def _groups(self, rows: int, columns: int, device: torch.device) -> Iterator[slice]:
        """As many rows at once as fill a block, counting their codebooks."""
        from muloco.outer.codecs.packing import block_elements

        step = max(1, block_elements(device) // max(columns, self.levels, 1))
        for start in range(0, rows, step):
            yield slice(start, start + step)
