"""How a run sends its pseudogradients: with which codec, how they are reduced, and with or without error feedback."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from muloco.outer.codecs import Codec, build_codec

DENSE = build_codec("none")
Reduce = Literal["reselect", "gather", "requantize"]
PART_ELEMENTS = 4 * 2**20
"""Where every bit travels, tensors do not matter: the fragment is one vector in parts of so many elements."""


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Settings of compression. The defaults are: no compression.

    Args:
        codec: of all tensors but the dense ones.
        dense: names of parameters that travel as fp32.
        reduce: `reselect`: each part's owner encodes the mean again, and a worker sends 2 (K - 1) / K payloads.
            `gather`: every worker gets every payload and takes the mean itself, exactly, and sends K - 1.
            `requantize`: as `gather`, and every worker encodes and decodes the mean once more, with one set of levels
            for a tensor or row instead of one for each owner's part, and without error feedback.
        error_feedback: what compression loses in a round is added in the next one, at the sender and at the owner.
        error_decay, error_alpha, error_gain: of error feedback, see `error_feedback.encode_pieces`. The gain is the
            sender's.
    """

    codec: Codec = DENSE
    dense: frozenset[str] = frozenset()
    reduce: Reduce = "reselect"
    error_feedback: bool = False
    error_decay: float = 0.9
    error_alpha: float = 1.0
    error_gain: float = 1.0

    def wire(self, tensors: Mapping[str, torch.Tensor]) -> "Wire":
        """The form in which a fragment of these tensors travels."""
        shapes = [tuple(tensor.shape) for tensor in tensors.values()]
        codecs = [DENSE if name in self.dense else self.codec for name in tensors]
        if all(codec == DENSE for codec in codecs):
            elements = sum(map(math.prod, shapes))
            shapes = [(min(PART_ELEMENTS, elements - start),) for start in range(0, elements, PART_ELEMENTS)]
            codecs = [DENSE] * len(shapes)
        return Wire(shapes=shapes, codecs=codecs, reduce=self.reduce)


@dataclass(frozen=True, kw_only=True)
class Wire:
    """The form in which a fragment travels."""

    shapes: Sequence[tuple[int, ...]]
    """Shapes of the tensors, in the order of the fragment's vector."""
    codecs: Sequence[Codec]
    """Codec of each tensor."""
    reduce: Reduce = "reselect"

    @property
    def exact(self) -> bool:
        """Whether the decoded payload equals the fragment in every bit."""
        return all(codec == DENSE for codec in self.codecs)


def layout_of(fragments: Sequence[tuple[Mapping[str, torch.Tensor], Wire]]) -> str:
    """Returns a digest, 16 hexadecimal digits, of everything that decides the sizes and the meaning of the payloads.

    Args:
        fragments: for each fragment, this rank's part of its tensors, by name, and how they are encoded.
    """
    told = [
        [
            [[name, str(tensor.dtype), *tensor.shape] for name, tensor in tensors.items()],
            [[repr(codec), *shape] for codec, shape in zip(wire.codecs, wire.shapes, strict=True)],
            wire.reduce,
        ]
        for tensors, wire in fragments
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
