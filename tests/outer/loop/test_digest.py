"""The digest is a function of every bit and of nothing else."""

import pytest
import torch

from muloco.outer.loop.digest import digest
from muloco.outer.protocol.header import as_hex


def reference(tensors: list[torch.Tensor]) -> int:
    """The sum written out with Python's integers, for fp32."""
    words = [int(bits) for tensor in tensors for bits in tensor.contiguous().view(torch.int32).flatten()]
    golden = 2**64 - 7046029254386353131
    return sum(bits * ((index * golden % 2**64) | 1) for index, bits in enumerate(words)) % 2**64


def test_equals_the_sum_written_out() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(3, 5), torch.randn(()), torch.randn(0), torch.randn(17)]
    assert int(digest(tensors)) % 2**64 == reference(tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
def test_any_flipped_bit_shows(dtype: torch.dtype) -> None:
    tensor = torch.arange(1, 9).to(dtype)
    word = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    before = int(digest([tensor]))
    for element in range(8):
        for bit in range(8 * tensor.element_size()):
            changed = tensor.clone()
            flip = -(2**bit) if bit == 8 * tensor.element_size() - 1 else 2**bit
            changed.view(word)[element] ^= flip
            assert int(digest([changed])) != before


def test_order_shape_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(6, 50)
    assert int(digest([tensor])) == int(digest([tensor[:2], tensor[2:]])) == int(digest([tensor.flatten()]))
    assert int(digest([tensor])) != int(digest([tensor[2:], tensor[:2]]))
    assert int(digest([tensor.t()])) != int(digest([tensor]))
    whole = int(digest([tensor]))
    monkeypatch.setattr("muloco.outer.loop.digest._BLOCK", 7)
    assert int(digest([tensor])) == whole


def test_hexadecimal() -> None:
    assert as_hex(-1) == "f" * 16 and as_hex(255) == "00000000000000ff"
