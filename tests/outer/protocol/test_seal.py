"""A seal depends on every bit, on the order and the sizes of the data, and on the key, for host and device memory."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from muloco.outer.protocol import seal
from muloco.outer.protocol.authentication import Key
from muloco.outer.protocol.seal import Seal, SecretHash, contents

KEY = Key(b"a key of the tests of seals")
FUNCTIONS = {"host": SecretHash.gmac, "device": SecretHash.sums}
"""The function for devices works on CPUs, too."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "BLOCK", 8)


@pytest.fixture(params=FUNCTIONS)
def function(request: pytest.FixtureRequest):
    return FUNCTIONS[request.param]


def tensor(data: bytes) -> torch.Tensor:
    return torch.tensor(list(data), dtype=torch.uint8)


def covered(function, *chunks: torch.Tensor, key: Key = KEY) -> bytes:
    one, secret = Seal(), SecretHash(key)
    for chunk in chunks:
        one.add(chunk, function(secret, chunk))
    return contents([one])[0]


def sums_in_integers(data: bytes) -> list[int]:
    """The sums of the blocks with Python's integers, modulo 2^64."""
    drawn = KEY.stream("seal", 8 * 8)
    factors = [int.from_bytes(drawn[i : i + 8], "little") | 1 for i in range(0, 64, 8)]
    data += bytes(-len(data) % 4)
    words = [int.from_bytes(data[i : i + 4], "little", signed=True) for i in range(0, len(data), 4)]
    blocks = [words[i : i + 8] for i in range(0, len(words), 8)]
    return [sum(w * f for w, f in zip(block, factors, strict=False)) % 2**64 for block in blocks]


def gmac_in_integers(data: bytes) -> bytes:
    """GMAC from AES alone, with the multiplication of NIST SP 800-38D, section 6.3."""
    block_cipher = Cipher(algorithms.AES(KEY.stream("gmac", 16)), modes.ECB()).encryptor()
    key, mask = (int.from_bytes(block_cipher.update(block), "big") for block in (bytes(16), bytes(15) + b"\1"))
    padded = data + bytes(-len(data) % 16) + (8 * len(data)).to_bytes(8, "big") + bytes(8)
    hashed = 0
    for i in range(0, len(padded), 16):
        x, product, v = hashed ^ int.from_bytes(padded[i : i + 16], "big"), 0, key
        for bit in range(127, -1, -1):
            product ^= v if x >> bit & 1 else 0
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
        hashed = product
    return (hashed ^ mask).to_bytes(16, "big")


@pytest.mark.parametrize("size", [0, 1, 3, 4, 31, 32, 33, 64, 97, 301])
@pytest.mark.parametrize("batch", [8, 24, 2**20])
def test_sums_equal_those_of_plain_integers(size: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where bytes do not begin at a whole word, as parts of a message do not."""
    monkeypatch.setattr(seal, "_BATCH", batch)
    data = random.Random(size).randbytes(size)
    for before in range(5):
        part = tensor(bytes(before) + data)[before:]
        assert [number % 2**64 for number in SecretHash(KEY).sums(part).tolist()] == sums_in_integers(data)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 97, 301])
def test_a_gmac_equals_that_of_plain_integers(size: int) -> None:
    data = random.Random(size).randbytes(size)
    for before in range(5):
        part = tensor(bytes(before) + data)[before:]
        assert SecretHash(KEY).gmac(part).numpy().tobytes() == gmac_in_integers(data)


def test_host_memory_has_a_gmac_and_the_memory_of_a_device_has_sums() -> None:
    data, secret = tensor(bytes(range(100))), SecretHash(KEY)
    assert torch.equal(secret.of(data), secret.gmac(data))
    on_meta = secret.of(data.to("meta"))
    assert on_meta.device.type == "meta" and on_meta.shape == secret.sums(data).shape


@pytest.mark.parametrize("size", [1, 5, 32, 71])
def test_every_single_bit_counts(function, size: int) -> None:
    data = bytearray(random.Random(size).randbytes(size))
    whole, seen = covered(function, tensor(data)), set()
    for bit in range(8 * size):
        data[bit // 8] ^= 1 << bit % 8
        seen.add(covered(function, tensor(data)))
        data[bit // 8] ^= 1 << bit % 8
    assert len(seen) == 8 * size and whole not in seen


def test_single_bits_of_a_large_unaligned_piece_count(function) -> None:
    rng, secret = random.Random(5), SecretHash(KEY)
    data = torch.randint(256, (100_003,), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))[3:]
    whole = function(secret, data)
    for place in [0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(50))]:
        bit = 1 << rng.randrange(8)
        data[place] ^= bit
        assert not torch.equal(function(secret, data), whole), (place, bit)
        data[place] ^= bit
    assert torch.equal(function(secret, data), whole)


def test_two_sign_bits_do_not_cancel(function) -> None:
    """As they would in a sum of 64-bit words times odd numbers, whatever these are."""
    zeros = torch.zeros(8, dtype=torch.int32)
    whole, seen = covered(function, zeros.view(torch.uint8)), set()
    for first in range(8):
        for second in range(first):
            words = zeros.clone()
            words[[first, second]] = -(2**31)
            seen.add(covered(function, words.view(torch.uint8)))
    assert len(seen) == 28 and whole not in seen


def test_order_and_sizes_count(function) -> None:
    a, b = tensor(bytes(range(32))), tensor(bytes(range(64, 96)))
    both, zero = torch.cat([a, b]), tensor(bytes(4))
    different = [(a, b), (b, a), (both,), (both[:4], both[4:]), (both, zero), (both[:-4],), (a, b, zero[:0]), (a,), ()]
    assert len({covered(function, *chunks) for chunks in different}) == len(different)


def test_another_key_gives_another_hash(function) -> None:
    data = tensor(bytes(range(100)))
    assert covered(function, data) != covered(function, data, key=KEY.derive("other"))


def test_bytes_with_gaps_are_refused_or_hashed_without_them(function) -> None:
    secret, every_other = SecretHash(KEY), tensor(bytes(range(200)))[::2]
    try:
        found = function(secret, every_other)
    except (BufferError, RuntimeError):
        return
    assert torch.equal(found, function(secret, every_other.contiguous()))


def test_threads_hash_at_the_same_time(function) -> None:
    secret = SecretHash(KEY)
    parts = [torch.full((200_000 + n,), n, dtype=torch.uint8) for n in range(8)]
    expected = [function(SecretHash(KEY), part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert all(map(torch.equal, pool.map(lambda part: function(secret, part), parts), expected))


def test_each_seal_covers_its_own_parts(function) -> None:
    secret, parts = SecretHash(KEY), [tensor(random.Random(n).randbytes(n)) for n in (3, 50, 0, 7)]
    seals = [Seal() for _ in range(3)]
    for number, part in enumerate(parts * 2):
        seals[number % 3].add(part, function(secret, part))
    expected = [covered(function, *(parts * 2)[which::3]) for which in range(3)]
    assert contents(seals) == expected
