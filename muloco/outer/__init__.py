"""The outer loop of DiLoCo: what happens to the workers' parameters every H inner steps. Needs torch alone."""

from muloco.outer.loop import OuterLoop, Sync
from muloco.outer.transport import Round, Transport, TransportError

__all__ = ["OuterLoop", "Round", "Sync", "Transport", "TransportError"]
