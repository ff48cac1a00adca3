"""The outer loop of DiLoCo, which syncs the workers' parameters every H inner steps. Needs only torch.

Its names are imported on first use, so that modules without torch (`fragments`, `codecs`) can be used alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muloco.outer.company import ForeignRun
    from muloco.outer.loop import OuterLoop, Sync
    from muloco.outer.membership import StateTransfer
    from muloco.outer.transaction import AnchorMismatch, Crowd, NonFinitePseudogradient, StateLost
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

_HOMES = ("company", "loop", "membership", "transaction", "transport")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            found = getattr(import_module(f"muloco.outer.{home}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__} has no attribute {name!r}")
