"""How workers fit onto nodes: arithmetic alone."""

from dataclasses import dataclass

from muloco.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker lives."""

    nodes: range
    """Its nodes, counted from 0."""
    devices: range
    """Its devices on each of them, counted from 0: one for each of its ranks there."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where all workers of a run live."""

    nodes: int
    """How many nodes they need."""
    places: tuple[Place, ...]
    """By worker."""

    def ranks_on(self, node: int) -> int:
        """How many ranks of all workers live on a node."""
        return sum(len(place.devices) for place in self.places if node in place.nodes)


def layout(*, workers: int, ranks: int, per_node: int) -> Layout:
    """As many whole workers on a node as it has devices for; a worker with more ranks than that takes whole nodes.

    Args:
        workers: K.
        ranks: of a worker; each takes a device.
        per_node: devices of a node; where it has none, the ranks that are to share its cores.

    Raises:
        UserError: a worker neither fits on a node nor fills whole ones.
    """
    if per_node < 1:
        raise UserError(f"a node must have room for at least one rank; got {per_node}")
    if ranks <= per_node:
        together = per_node // ranks
        places = [
            Place(nodes=range(w // together, w // together + 1), devices=_part(w % together, ranks))
            for w in range(workers)
        ]
    elif ranks % per_node:
        fits = ", ".join(str(n) for n in range(1, per_node + 1) if per_node % n == 0)
        raise UserError(
            f"a worker of {ranks} ranks does not fill whole nodes of {per_node} devices; its ranks "
            f"(the product of parallelism.*_degree) can be {fits} on one node, or a multiple of {per_node} over several"
        )
    else:
        places = [Place(nodes=_part(w, ranks // per_node), devices=range(per_node)) for w in range(workers)]
    return Layout(nodes=places[-1].nodes.stop, places=tuple(places))


def even_layout(*, workers: int, ranks: int, nodes: int) -> Layout:
    """The layout over at most `nodes` nodes without devices of their own that leaves most cores for each rank."""
    total = workers * ranks
    for per_node in range(-(-total // nodes), total):
        if ranks > per_node and ranks % per_node:
            continue
        found = layout(workers=workers, ranks=ranks, per_node=per_node)
        if found.nodes <= nodes:
            return found
    return layout(workers=workers, ranks=ranks, per_node=total)


def _part(index: int, size: int) -> range:
    return range(index * size, (index + 1) * size)
