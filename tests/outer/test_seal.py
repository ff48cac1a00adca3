"""A seal depends on every bit, on the order and the sizes of the data, and on the key."""

import random

import pytest
import torch

from muloco.outer import seal
from muloco.outer.authentication import Key
from muloco.outer.seal import Factors, Seal, contents

KEY = Key(b"a key of the tests of seals")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "BLOCK", 8)


def tensor(data: bytes) -> torch.Tensor:
    return torch.tensor(list(data), dtype=torch.uint8)


def covered(factors: Factors, *chunks: torch.Tensor) -> bytes:
    one = Seal()
    for chunk in chunks:
        one.add(chunk, factors.sums(chunk))
    return contents([one])[0]


def reference(key: Key, data: bytes) -> list[int]:
    """The numbers of the blocks with Python's integers, modulo 2^64."""
    drawn = key.stream("seal", 8 * 8)
    factors = [int.from_bytes(drawn[i : i + 8], "little") | 1 for i in range(0, 64, 8)]
    data += bytes(-len(data) % 4)
    words = [int.from_bytes(data[i : i + 4], "little", signed=True) for i in range(0, len(data), 4)]
    blocks = [words[i : i + 8] for i in range(0, len(words), 8)]
    return [sum(w * f for w, f in zip(block, factors, strict=False)) % 2**64 for block in blocks]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 31, 32, 33, 64, 97, 301])
@pytest.mark.parametrize("batch", [8, 24, 2**20])
def test_numbers_equal_those_of_plain_integers(size: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where bytes do not begin at a whole word, as parts of a message do not."""
    monkeypatch.setattr(seal, "_BATCH", batch)
    data = random.Random(size).randbytes(size)
    for before in range(5):
        part = tensor(bytes(before) + data)[before:]
        assert [number % 2**64 for number in Factors(KEY).sums(part).tolist()] == reference(KEY, data)


@pytest.mark.parametrize("size", [1, 5, 32, 71])
def test_every_single_bit_counts(size: int) -> None:
    factors, data = Factors(KEY), bytearray(random.Random(size).randbytes(size))
    whole, seen = covered(factors, tensor(data)), set()
    for bit in range(8 * size):
        data[bit // 8] ^= 1 << bit % 8
        seen.add(covered(factors, tensor(data)))
        data[bit // 8] ^= 1 << bit % 8
    assert len(seen) == 8 * size and whole not in seen


def test_two_sign_bits_do_not_cancel() -> None:
    """As they would in a sum of 64-bit words times odd numbers, whatever these are."""
    factors, zeros = Factors(KEY), torch.zeros(8, dtype=torch.int32)
    whole, seen = covered(factors, zeros.view(torch.uint8)), set()
    for first in range(8):
        for second in range(first):
            words = zeros.clone()
            words[[first, second]] = -(2**31)
            seen.add(covered(factors, words.view(torch.uint8)))
    assert len(seen) == 28 and whole not in seen


def test_order_and_sizes_count() -> None:
    factors, a, b = Factors(KEY), tensor(bytes(range(32))), tensor(bytes(range(64, 96)))
    both, zero = torch.cat([a, b]), tensor(bytes(4))
    different = [(a, b), (b, a), (both,), (both[:4], both[4:]), (both, zero), (both[:-4],), (a, b, zero[:0]), (a,), ()]
    assert len({covered(factors, *chunks) for chunks in different}) == len(different)


def test_another_key_gives_other_numbers() -> None:
    data = tensor(bytes(range(100)))
    other = KEY.derive("other")
    assert not torch.equal(Factors(KEY).sums(data), Factors(other).sums(data))


def test_each_seal_covers_its_own_parts() -> None:
    factors, parts = Factors(KEY), [tensor(random.Random(n).randbytes(n)) for n in (3, 50, 0, 7)]
    seals = [Seal() for _ in range(3)]
    for number, part in enumerate(parts * 2):
        seals[number % 3].add(part, factors.sums(part))
    expected = [covered(factors, *(parts * 2)[which::3]) for which in range(3)]
    assert contents(seals) == expected
