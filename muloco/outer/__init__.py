"""The outer loop of DiLoCo, which syncs the workers' parameters every H inner steps. Needs only torch.

Its names are imported on first use, so that modules without torch (`fragments`, `codecs`) can be used alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muloco.outer.loop.outer_loop import OuterLoop, StateTransfer
    from muloco.outer.loop.snapshot import Saved, Snapshot
    from muloco.outer.loop.sync import Sync
    from muloco.outer.protocol.company import ForeignRun
    from muloco.outer.protocol.quorum import QuorumPolicy, RunProgress, WorkerIdentity
    from muloco.outer.protocol.transaction import AnchorMismatch, NonFinitePseudogradient, StateLost
    from muloco.outer.protocol.transport import Round, Transport, TransportError

__all__ = [
    "AnchorMismatch",
    "ForeignRun",
    "NonFinitePseudogradient",
    "OuterLoop",
    "QuorumPolicy",
    "Round",
    "RunProgress",
    "Saved",
    "Snapshot",
    "StateLost",
    "StateTransfer",
    "Sync",
    "Transport",
    "TransportError",
    "WorkerIdentity",
]

_HOMES = (
    "loop.sync",
    "protocol.quorum",
    "protocol.company",
    "protocol.transport",
    "protocol.transaction",
    "loop.snapshot",
    "loop.outer_loop",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            value = getattr(import_module(f"muloco.outer.{home}"), name, None)
            if value is not None:
                return value
    raise AttributeError(f"module {__name__} has no attribute {name!r}")
