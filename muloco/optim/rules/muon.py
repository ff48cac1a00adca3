"""Muon: the momentum, orthogonalized.

Source: Keller Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024).
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from muloco.optim.layouts import LAYOUTS
from muloco.optim.presets import PRESETS, coefficients
from muloco.optim.rule import Option, Rule, below_one, integer, one_of, one_or_some, or_none, some, switch

if TYPE_CHECKING:
    from torch import Tensor

LR_SCALES: dict[str, Callable[[int, int], float]] = {
    "spectral_norm": lambda rows, cols: math.sqrt(rows / cols),
    "rms_norm": lambda rows, cols: 0.2 * math.sqrt(max(rows, cols)),
    "none": lambda rows, cols: 1.0,
}
"""Factors on the learning rate of a `[rows, cols]` = `[fan_out, fan_in]` matrix, by name."""


def direction(
    momentum: "Tensor", group: dict[str, Any], scale: float, rows: "Mapping[str, Tensor]", symmetric_products: str
) -> "Tensor":
    from muloco.optim.newton_schulz import orthogonal_direction

    triples = coefficients(group["orthogonalization"], group["steps"])
    return orthogonal_direction(momentum, triples, scale, overwrite=True, symmetric_products=symmetric_products)


MOMENTUM = Option(name="momentum", default=0.9, read=below_one, about="M <- momentum M + G", in_all_groups=True)
NESTEROV = Option(
    name="nesterov",
    default=False,
    read=switch,
    about="looks one momentum step ahead: G + momentum M takes the place of M",
    in_all_groups=True,
)
OPTIONS = (
    MOMENTUM,
    NESTEROV,
    Option(
        name="adjust_lr",
        default="spectral_norm",
        read=one_of(LR_SCALES),
        about="lr times sqrt(out / in); `rms_norm`: 0.2 sqrt(max(out, in)); `none`: 1",
        in_all_groups=True,
    ),
    Option(
        name="orthogonalization",
        default="muloco",
        read=one_of(PRESETS, "orthogonalization preset"),
        about="coefficients of the orthogonalization, see below",
        in_all_groups=True,
    ),
    Option(
        name="steps",
        default=None,
        default_text="the preset's",
        read=or_none(integer(1, "a positive integer or None")),
        about="steps of the orthogonalization, see below",
        in_all_groups=True,
    ),
    Option(
        name="layout",
        default=None,
        read=or_none(one_of(LAYOUTS)),
        about="`transposed`: a matrix [in, out]. More than two dimensions: `stacked` (the last two are matrices), "
        "`stacked_transposed` (they are [in, out]) or `flatten` (the first is the rows); four or more are flattened by "
        "default, three need one of these",
        in_constructor=False,
        in_all_groups=True,
    ),
    Option(
        name="split",
        default=None,
        read=or_none(some(integer(1))),
        about="rows (outputs) of each matrix in a fused projection, in order; see above",
        in_constructor=False,
    ),
    Option(
        name="per_head",
        default=None,
        read=or_none(one_or_some(integer(1))),
        about="rows of an attention head, each of which is a matrix of its own; with `split`, also one number a part",
        in_constructor=False,
    ),
)
"""Options of all rules that orthogonalize a momentum."""

RULE = Rule(
    name="muon",
    label="Muon",
    about="the momentum, orthogonalized",
    options=OPTIONS,
    state={"momentum_buffer": "element"},
    takes="matrices",
    direction=direction,
)
