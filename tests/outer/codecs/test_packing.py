"""Packed integers against streams of bits written with Python's integers."""

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muloco.outer.codecs.packing import pack, pack_wide, unpack, unpack_wide

repeatable = settings(derandomize=True, deadline=None, max_examples=60, database=None)


def bit_stream(numbers: Sequence[int], bits: int) -> bytes:
    """Number i in the bits from i x bits of one long integer."""
    whole = sum(number << i * bits for i, number in enumerate(numbers))
    return whole.to_bytes(-(-len(numbers) * bits // 8), "little")


def as_bytes(payload: torch.Tensor) -> bytes:
    assert payload.dtype == torch.uint8 and payload.dim() == 1
    return bytes(payload.tolist())


@repeatable
@given(bits=st.integers(1, 8), data=st.data())
def test_codes_are_packed_as_one_stream_of_bits(bits: int, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    packed = pack(torch.tensor(codes, dtype=torch.uint8), bits)
    assert as_bytes(packed) == bit_stream(codes, bits)
    assert unpack(packed, bits, len(codes)).tolist() == codes


@repeatable
@given(bits=st.integers(0, 40), data=st.data())
def test_wide_integers_are_packed_by_bytes_then_bits(bits: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=30))
    packed = pack_wide(torch.tensor(numbers, dtype=torch.int64), bits)
    planes = [bytes(number >> 8 * plane & 255 for number in numbers) for plane in range(bits // 8)]
    assert as_bytes(packed) == b"".join(planes) + bit_stream([n >> bits // 8 * 8 for n in numbers], bits % 8)
    assert unpack_wide(packed, bits, len(numbers)).tolist() == numbers
