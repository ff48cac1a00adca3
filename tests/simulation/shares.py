"""Work that workers share outside the rounds, as validation does: each computes a part, and fetches the others'."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from muloco.outer.protocol.header import as_hex
from muloco.outer.protocol.transport import KEPT_PARTS
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from muloco.outer import OuterLoop
    from muloco.outer.protocol.peer_transport import PeerTransport

PATIENCE_SECONDS = 10.0
"""See `muloco.training.validation`."""


def share(loop: "OuterLoop", rank: int, *, all_come: Callable[[], bool]) -> None:
    """Publishes a worker's part of the work on the anchor, and collects the parts of the other members.

    Args:
        loop: of the worker.
        rank: of the worker.
        all_come: whether all members were sure to answer.

    Raises:
        Violation: a part is not that of the work, or not of a member, or missing.
    """
    membership = loop.membership
    own, members = membership.identity.worker, membership.members
    if own not in members:  # it has just joined
        return
    name = f"work-{as_hex(loop.anchor_digest())}"
    membership.publish(name, _part(name, own, rank))
    given = membership.collect(name, PATIENCE_SECONDS)
    expected = {_part(name, other, rank): other for other in members if other != own}
    if wrong := [part for part in given if part not in expected]:
        raise Violation(f"worker {own} asks for the parts of {name}, and is given {wrong}")
    if len(set(given)) < len(given):
        raise Violation(f"worker {own} is given a part of {name} twice")
    if all_come() and len(given) < len(expected):
        missing = sorted(other for part, other in expected.items() if part not in given)
        raise Violation(f"worker {own} does not get the parts of {name} of workers {missing}")


def watch(worker: int, rank: int, transport: "PeerTransport") -> None:
    """Watches that each part that is collected is that of its worker, and that few are kept."""
    collect, publish = transport.collect, transport.publish

    def collects(name: str, *args: object) -> dict[int, bytes]:
        parts = collect(name, *args)  # type: ignore[arg-type]
        for other, part in parts.items():
            if part != _part(name, other, rank):
                raise Violation(f"worker {worker} is given {part!r} as the part of {name} of worker {other}")
        return parts

    def publishes(name: str, part: bytes) -> None:
        publish(name, part)
        if (kept := len(transport.answers._parts)) > KEPT_PARTS:
            raise Violation(f"worker {worker} keeps {kept} parts")

    transport.collect, transport.publish = collects, publishes  # type: ignore[method-assign, assignment]


def _part(name: str, worker: int, rank: int) -> bytes:
    return f"{name} by worker {worker}, rank {rank}".encode()
