"""The outer loop of DiLoCo, which syncs the workers' parameters every H inner steps. Needs only torch.

Its names are imported on first use, so that modules without torch (`fragments`, `codecs`) can be used alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muloco.outer.company import ForeignRun
    from muloco.outer.loop import OuterLoop, StateTransfer
    from muloco.outer.quorum import QuorumPolicy, RunProgress, WorkerIdentity
    from muloco.outer.snapshot import Saved, Snapshot
    from muloco.outer.sync import Sync
    from muloco.outer.transaction import AnchorMismatch, NonFinitePseudogradient, StateLost
    from muloco.outer.transport import Round, Transport, TransportError

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

_HOMES = ("sync", "quorum", "company", "transport", "transaction", "snapshot", "loop")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            value = getattr(import_module(f"muloco.outer.{home}"), name, None)
            if value is not None:
                return value
    raise AttributeError(f"module {__name__} has no attribute {name!r}")
