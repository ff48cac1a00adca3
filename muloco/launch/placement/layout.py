"""How workers are spread over nodes and their devices. This is arithmetic alone."""

from dataclasses import dataclass

from muloco.errors import UserError


@dataclass(frozen=True, kw_only=True)
class WorkerLayout:
    """The nodes and devices of one worker."""

    nodes: range
    """Numbers of its nodes, from 0."""
    devices: range
    """Numbers of its devices on each of these nodes, from 0. Each of its ranks there has one."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The nodes and devices of all workers of a run."""

    nodes: int
    """Number of nodes that the workers need."""
    workers: tuple[WorkerLayout, ...]

    def ranks_on(self, node: int) -> int:
        """Returns the number of ranks, of all workers, on a node."""
        return sum(len(worker.devices) for worker in self.workers if node in worker.nodes)


def layout(*, workers: int, ranks: int, per_node: int) -> Layout:
    """Returns a layout with as many whole workers on a node as it has devices for. A worker with more ranks than that
    takes whole nodes.

    Args:
        ranks: number of ranks of each worker. Each rank takes a device.
        per_node: number of devices of a node; for nodes without devices, the number of ranks that share its cores.

    Raises:
        UserError: a worker neither fits on a node nor fills whole ones.
    """
    if per_node < 1:
        raise UserError(f"a node must have room for at least one rank; got {per_node}")
    if ranks <= per_node:
        together = per_node // ranks
        layouts = [
            WorkerLayout(nodes=range(w // together, w // together + 1), devices=_part(w % together, ranks))
            for w in range(workers)
        ]
    elif ranks % per_node:
        fits = ", ".join(str(n) for n in range(1, per_node + 1) if per_node % n == 0)
        raise UserError(
            f"a worker of {ranks} ranks does not fill whole nodes of {per_node} devices; its ranks "
            f"(the product of parallelism.*_degree) can be {fits} on one node, or a multiple of {per_node} over several"
        )
    else:
        layouts = [WorkerLayout(nodes=_part(w, ranks // per_node), devices=range(per_node)) for w in range(workers)]
    return Layout(nodes=layouts[-1].nodes.stop, workers=tuple(layouts))


def even_layout(*, workers: int, ranks: int, nodes: int) -> Layout:
    """Returns the layout over at most `nodes` nodes without devices that leaves the most cores for each rank."""
    total = workers * ranks
    for per_node in range(-(-total // nodes), total):
        if ranks > per_node and ranks % per_node:
            continue
        spread = layout(workers=workers, ranks=ranks, per_node=per_node)
        if spread.nodes <= nodes:
            return spread
    return layout(workers=workers, ranks=ranks, per_node=total)


def _part(index: int, size: int) -> range:
    return range(index * size, (index + 1) * size)
