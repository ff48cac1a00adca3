"""Workers on nodes: each rank has a device of its own, and no worker straddles nodes that it does not fill."""

from itertools import product

import pytest

from muloco.errors import UserError
from muloco.launch.placement.layout import even_layout, layout


def test_every_rank_has_a_device_and_no_worker_straddles() -> None:
    for workers, ranks, per_node in product(range(1, 10), range(1, 25), range(1, 9)):
        if ranks > per_node and ranks % per_node:
            with pytest.raises(UserError, match=f"a worker of {ranks} ranks does not fill whole nodes"):
                layout(workers=workers, ranks=ranks, per_node=per_node)
            continue
        found = layout(workers=workers, ranks=ranks, per_node=per_node)
        taken = [(node, device) for place in found.workers for node in place.nodes for device in place.devices]
        assert len(taken) == len(set(taken)) == workers * ranks
        assert all(0 <= node < found.nodes and 0 <= device < per_node for node, device in taken)
        assert all(len(place.nodes) == 1 or len(place.devices) == per_node for place in found.workers)
        fewest = -(-workers // (per_node // ranks)) if ranks <= per_node else workers * ranks // per_node
        assert found.nodes == fewest


def test_places() -> None:
    two = layout(workers=3, ranks=4, per_node=8)
    assert two.nodes == 2 and [(p.nodes, p.devices) for p in two.workers] == [
        (range(0, 1), range(0, 4)),
        (range(0, 1), range(4, 8)),
        (range(1, 2), range(0, 4)),
    ]
    assert (two.ranks_on(0), two.ranks_on(1)) == (8, 4)
    spanning = layout(workers=2, ranks=16, per_node=8)
    assert [place.nodes for place in spanning.workers] == [range(0, 2), range(2, 4)]


def test_what_would_fit_is_named() -> None:
    with pytest.raises(UserError, match="can be 1, 2, 4, 8 on one node, or a multiple of 8 over several"):
        layout(workers=1, ranks=12, per_node=8)
    with pytest.raises(UserError, match="room for at least one rank; got 0"):
        layout(workers=1, ranks=1, per_node=0)


@pytest.mark.parametrize(
    ("workers", "ranks", "nodes", "used", "most"),
    [
        (2, 1, 2, 2, 1),
        (2, 1, 1, 1, 2),
        (5, 1, 2, 2, 3),
        (1, 4, 2, 2, 2),
        (1, 3, 2, 1, 3),
        (2, 4, 4, 4, 2),
        (2, 2, 8, 4, 1),
    ],
)
def test_without_devices_ranks_spread_evenly(workers: int, ranks: int, nodes: int, used: int, most: int) -> None:
    found = even_layout(workers=workers, ranks=ranks, nodes=nodes)
    assert found.nodes == used
    assert max(found.ranks_on(node) for node in range(nodes)) == most
