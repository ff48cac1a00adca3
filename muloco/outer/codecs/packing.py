"""Integers of 1 to 63 bits as bytes, without gaps."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from muloco.outer.codecs.codec import packed_bytes

_BLOCK = {"cpu": 2**17}
_LARGE_BLOCK = 2**24
_NARROW = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def block_elements(device: torch.device) -> int:
    """How many elements to work on at once: few enough for a CPU's caches, many for one launch of a GPU kernel."""
    return _BLOCK.get(device.type, _LARGE_BLOCK)


def pack(values: Tensor, bits: int) -> Tensor:
    """Packs integers of up to 8 bits: value i takes bits [i bits, (i + 1) bits) of the stream, least significant first.

    Args:
        values: uint8 [..., n], each below 2^bits. Each row is packed separately.
        bits: 1 to 8.

    Returns:
        uint8 [..., ceil(n bits / 8)]; the bits behind the last value are 0.
    """
    count = values.shape[-1]
    if bits == 8:
        return values.clone()
    packed = torch.empty(*values.shape[:-1], -(-count // 8), bits, dtype=torch.uint8, device=values.device)
    block = 8 * _groups_at_once(values)
    for start in range(0, count, block):
        chunk = values[..., start : start + block]
        padded = pad(chunk, (0, -chunk.shape[-1] % 8)).clone(memory_format=torch.contiguous_format)
        low = _low_bytes(_squeeze(padded.view(torch.int64), bits), bits)
        packed[..., start // 8 : (start + padded.shape[-1]) // 8, :] = low
    return packed.flatten(-2)[..., : packed_bytes(count, bits)]


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Returns the integers that `pack` has packed, `count` in each row, as uint8 [..., count]."""
    if bits == 8:
        return packed.clone()
    groups = -(-count // 8)
    lead = packed.shape[:-1]
    values = torch.empty(*lead, groups, dtype=torch.int64, device=packed.device)
    packed = pad(packed, (0, groups * bits - packed.shape[-1])).reshape(*lead, groups, bits)
    block = _groups_at_once(values)
    for start in range(0, groups, block):
        values[..., start : start + block] = _spread(_from_low_bytes(packed[..., start : start + block, :], bits), bits)
    return values.view(torch.uint8)[..., :count]


def pack_wide(values: Tensor, bits: int) -> Tensor:
    """Packs integers of any width: their lowest bytes one after the other, then the second bytes, and so on while whole
    bytes last; then the remaining `bits` mod 8 high bits of each as `pack` does.

    Args:
        values: int64 [..., n], at least 0 and below 2^bits. Each row is packed separately.
        bits: 0 to 63.

    Returns:
        uint8 [..., ceil(n bits / 8)].
    """
    whole, rest = divmod(bits, 8)
    planes = [(values >> 8 * plane).to(torch.uint8) for plane in range(whole)]
    if rest:
        planes.append(pack((values >> 8 * whole).to(torch.uint8), rest))
    return torch.cat(planes, -1) if planes else values[..., :0].to(torch.uint8)


def unpack_wide(packed: Tensor, bits: int, count: int) -> Tensor:
    """Returns the integers that `pack_wide` has packed, `count` in each row, as int64 [..., count]."""
    whole, rest = divmod(bits, 8)
    values = torch.zeros(*packed.shape[:-1], count, dtype=torch.int64, device=packed.device)
    for plane in range(whole):
        values |= packed[..., plane * count : (plane + 1) * count].to(torch.int64) << 8 * plane
    if rest:
        values |= unpack(packed[..., whole * count :], rest, count).to(torch.int64) << 8 * whole
    return values


def _groups_at_once(rows: Tensor) -> int:
    """Returns the number of groups of eight that are processed at a time in each row."""
    return max(1, block_elements(rows.device) // 8 // max(1, rows.shape[:-1].numel()))


def _squeeze(words: Tensor, bits: int) -> Tensor:
    """Eight values in the bytes of an int64 -> in its lowest 8 bits bits: neighbours join, then pairs, then fours."""
    for joined in (1, 2, 4):
        low = _low_values(joined, bits)
        words = (words & low).bitwise_or_((words >> joined * (8 - bits)).bitwise_and_(low << joined * bits))
    return words


def _spread(words: Tensor, bits: int) -> Tensor:
    """The inverse of `_squeeze`."""
    for joined in (4, 2, 1):
        low = _low_values(joined, bits)
        words = (words & low).bitwise_or_((words & low << joined * bits).bitwise_left_shift_(joined * (8 - bits)))
    return words


def _low_values(joined: int, bits: int) -> int:
    """Mask of the lowest `joined` values in each 2 x `joined` bytes of an int64."""
    return sum((2 ** (joined * bits) - 1) << 8 * byte for byte in range(0, 8, 2 * joined))


def _low_bytes(words: Tensor, bits: int) -> Tensor:
    """Returns the lowest `bits` bytes of int64 [..., n] as uint8 [..., n, bits]."""
    if bits in _NARROW:  # much faster than the copy of parts of rows
        return words.to(_NARROW[bits]).view(torch.uint8).view(*words.shape, bits)
    return words.view(torch.uint8).view(*words.shape, 8)[..., :bits]


def _from_low_bytes(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `_low_bytes`: int64 [..., n]."""
    words = torch.zeros(*packed.shape[:-1], 8, dtype=torch.uint8, device=packed.device)
    words[..., :bits] = packed
    return words.view(torch.int64).squeeze(-1)
