"""The outer loop of DiLoCo: what happens to the workers' parameters every H inner steps. Needs torch alone."""

from muloco.outer.loop import OuterLoop, StateTransfer, Sync
from muloco.outer.transaction import AnchorMismatch, NonFinitePseudogradient
from muloco.outer.transport import Round, Transport, TransportError

__all__ = [
    "AnchorMismatch",
    "NonFinitePseudogradient",
    "OuterLoop",
    "Round",
    "StateTransfer",
    "Sync",
    "Transport",
    "TransportError",
]
