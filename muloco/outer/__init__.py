"""The outer loop of DiLoCo: what happens to the workers' parameters every H inner steps. Needs torch alone."""

from muloco.outer.loop import OuterLoop, Sync
from muloco.outer.membership import StateTransfer
from muloco.outer.transaction import AnchorMismatch, Crowd, ForeignRun, NonFinitePseudogradient, StateLost
from muloco.outer.transport import Round, Transport, TransportError

__all__ = [
    "AnchorMismatch",
    "Crowd",
    "ForeignRun",
    "NonFinitePseudogradient",
    "OuterLoop",
    "Round",
    "StateLost",
    "StateTransfer",
    "Sync",
    "Transport",
    "TransportError",
]
