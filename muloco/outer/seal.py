"""A check of all that a member sends to another one in a round, computed where the data is.

Each block of data becomes one number: the sum of its 32-bit words times secret odd 64-bit factors, modulo 2^64. Any
single changed bit changes it, and any other change that is made without knowing the factors remains unseen with a
probability of 2^-32 at most (multilinear hashing, Carter and Wegman 1979). The members compare the numbers of all
blocks by tags over them, so that order and sizes count, too.
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
        key: of the group.
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
    """Of all that goes from one member to another in a round."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.sums: list[torch.Tensor] = []

    def add(self, data: torch.Tensor, sums: torch.Tensor) -> None:
        """The next bytes, with the numbers of their blocks."""
        self.sizes.append(data.numel())
        self.sums.append(sums)


def contents(seals: Iterable[Seal]) -> list[bytes]:
    """Returns what the tag over each seal covers. The host waits for the device once, for all of them."""
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
    """Returns bytes, a multiple of 4, as int32 words; copies them only where they do not begin at a whole word."""
    aligned = data.storage_offset() % 4 == 0 and data.data_ptr() % 4 == 0
    return (data if aligned else data.clone()).view(torch.int32)
