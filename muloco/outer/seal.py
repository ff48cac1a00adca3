"""Seals: checksums of everything that one member sends to another in a round, computed on the device of the data.

Each block of data is reduced to one number: the sum of its 32-bit words times secret odd 64-bit factors, modulo 2^64.
Every change of a single bit changes this number. Any other change that is made without knowledge of the factors goes
unnoticed with a probability of at most 2^-32 (multilinear hashing, Carter and Wegman 1979). Sender and receiver compare
a tag over the numbers of all blocks, so order and sizes are checked, too.
"""

from collections.abc import Iterable

import torch

from muloco.outer.authentication import Key

BLOCK = 2**16
"""Words in a block: their products fit into a CPU's cache."""
_BATCH = 2**20
"""Words whose products a GPU holds at once."""


class Factors:
    """The secret factors of a group, on each device where they are needed.

    Args:
        key: the key of the group.
    """

    def __init__(self, key: Key):
        drawn = bytearray(key.stream("seal", 8 * BLOCK))
        self._drawn = torch.frombuffer(drawn, dtype=torch.int64) | 1
        self._on = {self._drawn.device: self._drawn}

    def sums(self, data: torch.Tensor) -> torch.Tensor:
        """Returns the numbers of the blocks of some bytes, queued on the current stream.

        Args:
            data: uint8 vector; the last word is filled up with zeros.

        Returns:
            int64 vector on the same device.
        """
        if data.device not in self._on:
            self._on[data.device] = self._drawn.to(data.device)
        factors = self._on[data.device]
        whole, rest = data.numel() // (4 * BLOCK), data.numel() % (4 * BLOCK)
        sums = torch.empty(whole + (rest > 0), dtype=torch.int64, device=data.device)
        step = 1 if data.device.type == "cpu" else _BATCH // BLOCK
        for first in range(0, whole, step):
            last = min(first + step, whole)
            rows = _words(data[4 * BLOCK * first : 4 * BLOCK * last]).view(-1, BLOCK)
            torch.sum(rows * factors, 1, out=sums[first:last])
        if rest:
            words = _words(torch.cat([data[-rest:], data.new_zeros(-rest % 4)]))
            sums[whole] = (words * factors[: words.numel()]).sum()
        return sums


class Seal:
    """The checksum of everything that one member sends to another in a round."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.sums: list[torch.Tensor] = []

    def add(self, data: torch.Tensor, sums: torch.Tensor) -> None:
        """Adds the next bytes, given the numbers of their blocks."""
        self.sizes.append(data.numel())
        self.sums.append(sums)


def contents(seals: Iterable[Seal]) -> list[bytes]:
    """Returns, for each seal, the bytes over which its tag is computed. The host waits once for all of them."""
    seals = list(seals)
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for seal in seals:
        for sums in seal.sums:
            by_device.setdefault(sums.device, []).append(sums)
    left = {device: torch.cat(sums).cpu() for device, sums in by_device.items()}
    covered = []
    for seal in seals:
        parts = [torch.tensor([len(seal.sizes), *seal.sizes], dtype=torch.int64)]
        for sums in seal.sums:
            part, left[sums.device] = left[sums.device].tensor_split([sums.numel()])
            parts.append(part)
        covered.append(torch.cat(parts).numpy().tobytes())
    return covered


def _words(data: torch.Tensor) -> torch.Tensor:
    """Returns bytes (a multiple of 4) as int32 words, copied only if they are not aligned to 4 bytes."""
    aligned = data.storage_offset() % 4 == 0 and data.data_ptr() % 4 == 0
    return (data if aligned else data.clone()).view(torch.int32)
