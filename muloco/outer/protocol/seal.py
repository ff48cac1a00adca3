"""Seals: checksums of everything that one member sends to another in a round.

Each piece of data is reduced to a short hash by a function that the secret key of the group selects. Which function it
is depends on the memory from which the group sends (`PeerGroup.device`). That is of one kind for all members, so that
sender and receiver use the same function.

- In host memory it is GMAC (AES-GCM over associated data alone, NIST SP 800-38D), for which processors have
  instructions: 16 bytes for each piece.
- In the memory of a device it is the sum of the 32-bit words times secret odd 64-bit factors, modulo 2^64, for each
  block of a piece. The sums are queued on the device, and the host does not wait for them.

Every change of a single bit changes the hash (in GMAC for all keys but a share of 2^-128). Any other change that is
made without knowledge of the key goes unnoticed with a probability of at most 2^-107 for a piece of 16 MiB with GMAC,
because GHASH is almost universal (McGrew and Viega 2004, "The security and performance of the Galois/Counter mode of
operation"), and of at most 2^-32 with sums (multilinear hashing, Carter and Wegman 1979). Sender and receiver compare
an HMAC over the hashes and sizes of all pieces, so their order is checked, too.

All GMACs of a group have the same nonce. A GMAC is GHASH xor a mask that depends on key and nonce, so the mask is the
same for all, and two pieces have equal GMACs only if they have equal GHASHes. Somebody who saw two GMACs with the same
nonce could compute the key of GHASH (SP 800-38D, appendix A). Therefore no GMAC leaves the process. What is sent is the
HMAC, under another key, which reveals nothing about the GMACs (Wegman and Carter 1981: a universal hash under a
pseudorandom function).
"""

from array import array
from collections.abc import Iterable
from functools import cached_property

import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from muloco.outer.protocol.authentication import Key

BLOCK = 2**16
"""Words in a block, for which there is one sum."""
_BATCH = 2**20
"""Words whose products a device holds at once."""
_NONCE = bytes(12)


class SecretHash:
    """The secret hash functions of a group.

    Args:
        key: the key of the group.
    """

    def __init__(self, key: Key):
        self._key = key
        self._gcm = AESGCM(key.stream("gmac", 16))
        self._factors_on: dict[torch.device, torch.Tensor] = {}

    def of(self, data: torch.Tensor) -> torch.Tensor:
        """Returns the hash of some bytes, by the function for the memory in which they are.

        Args:
            data: contiguous uint8 vector, not empty, of less than 2^31 bytes.

        Returns:
            int64 vector on the same device, of a length that follows from that of `data`.
        """
        return self.gmac(data) if data.device.type == "cpu" else self.sums(data)

    def gmac(self, data: torch.Tensor) -> torch.Tensor:
        """Returns the GMAC of some bytes in host memory, which are not copied. Other threads can run meanwhile.

        Raises:
            BufferError: the vector is not contiguous.
            OverflowError: it has 2^31 bytes or more.
        """
        tag = self._gcm.encrypt(_NONCE, b"", data.numpy().data)
        return torch.frombuffer(bytearray(tag), dtype=torch.int64)

    def sums(self, data: torch.Tensor) -> torch.Tensor:
        """Returns the sums of the blocks of some bytes on any device, queued on the current stream. The last word is
        filled up with zeros."""
        factors = self._factors(data.device)
        whole, rest = data.numel() // (4 * BLOCK), data.numel() % (4 * BLOCK)
        sums = torch.empty(whole + (rest > 0), dtype=torch.int64, device=data.device)
        step = _BATCH // BLOCK
        for first in range(0, whole, step):
            last = min(first + step, whole)
            rows = _words(data[4 * BLOCK * first : 4 * BLOCK * last]).view(-1, BLOCK)
            torch.sum(rows * factors, 1, out=sums[first:last])
        if rest:
            words = _words(torch.cat([data[-rest:], data.new_zeros(-rest % 4)]))
            sums[whole] = (words * factors[: words.numel()]).sum()
        return sums

    def _factors(self, device: torch.device) -> torch.Tensor:
        if device not in self._factors_on:
            self._factors_on[device] = self._drawn.to(device)
        return self._factors_on[device]

    @cached_property
    def _drawn(self) -> torch.Tensor:
        return torch.frombuffer(bytearray(self._key.stream("seal", 8 * BLOCK)), dtype=torch.int64) | 1


class Seal:
    """The checksum of everything that one member sends to another in a round."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.hashes: list[torch.Tensor] = []

    def add(self, data: torch.Tensor, hashed: torch.Tensor) -> None:
        """Adds the next piece, given its hash."""
        self.sizes.append(data.numel())
        self.hashes.append(hashed)


def contents(seals: Iterable[Seal]) -> list[bytes]:
    """Returns, for each seal, the bytes over which its tag is computed. All hashes are on one device. The host waits
    for it once."""
    seals = list(seals)
    hashes = [hashed for seal in seals for hashed in seal.hashes]
    left = torch.cat(hashes).cpu().numpy().tobytes() if hashes else b""
    covered = []
    for seal in seals:
        length = sum(hashed.nbytes for hashed in seal.hashes)
        covered.append(array("q", [len(seal.sizes), *seal.sizes]).tobytes() + left[:length])
        left = left[length:]
    return covered


def _words(data: torch.Tensor) -> torch.Tensor:
    """Returns bytes (a multiple of 4) as int32 words, copied only if they are not aligned to 4 bytes."""
    aligned = data.storage_offset() % 4 == 0 and data.data_ptr() % 4 == 0
    return (data if aligned else data.clone()).view(torch.int32)
