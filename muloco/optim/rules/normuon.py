"""NorMuon: Muon's direction, whose rows (neurons) are divided by the root of a second moment of their own.

Source: "NorMuon: Making Muon more efficient and scalable" (arXiv 2510.05491).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from muloco.optim.rule import Option, Rule, below_one
from muloco.optim.rules import muon
from muloco.optim.rules.adamw import EPS

if TYPE_CHECKING:
    from torch import Tensor


def direction(
    momenta: "Tensor", group: dict[str, Any], scale: float, rows: "Mapping[str, Tensor]", symmetric_products: str
) -> "Tensor":
    """See `muloco.optim.whole_matrices.Direction`. With O the orthogonalized momentum of an m x n matrix:

        v <- beta2 v + (1 - beta2) (mean of the squares of each row of O)
        D  = O / (sqrt(v) + eps)
        scale sqrt(min(m, n)) D / |D|

    The norm is Muon's own for an orthogonal O. With `adjust_lr` `rms_norm` it is the paper's 0.2 sqrt(m n). A matrix of
    zeros has the direction zero.
    """
    import torch

    orthogonal = muon.direction(momenta, group, 1.0, {}, symmetric_products)
    second = rows["second_moment"]
    result = orthogonal.to(torch.promote_types(orthogonal.dtype, torch.float32))
    squares = result.square().sum_to_size(second.shape).mul_(second.numel() / result.numel())
    second.lerp_(squares.to(second.dtype), 1 - group["beta2"])
    result = result.div(second.sqrt().add_(group["eps"]))
    norm = torch.linalg.vector_norm(result, dim=(-2, -1), keepdim=True)
    factor = scale * min(result.shape[-2:]) ** 0.5
    return result.mul_(torch.where(norm == 0, 0, factor / norm)).to(orthogonal.dtype)


BETA2 = Option(name="beta2", default=0.95, read=below_one, about="decay rate of the second moment of a row")

RULE = Rule(
    name="normuon",
    label="NorMuon",
    about="Muon's direction, each row divided by the root of its second moment",
    options=(*muon.OPTIONS, BETA2, EPS),
    state={"momentum_buffer": "element", "second_moment": "row"},
    takes="matrices",
    direction=direction,
)
