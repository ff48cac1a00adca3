"""Streaming at 416M with eight workers: in three fragments (PAPER 5.9), and compressed besides (PAPER 3.5).

muloco sweep jobs/muloco_paper/inner_sweep_distributed_quantized_streaming.py [--submit | status] ...
"""

import sys

from muloco.cli import main
from muloco.recipes import model_map as paper
from muloco.sweeps.sweep import Given, Point, Sweep, product

SIZE = "416M"
WORKERS = paper.workers_on(nodes=1, per_node=8)
BATCH = 512
SOURCE = "published: the streaming launcher, PAPER 3.5"
METHODS: dict[str, tuple[paper.Method, str, tuple[float, ...]]] = {
    "muloco": ("MuLoCo", "config/diloco/2x_4gpu_muloco_streaming.py", (0.04728708, 0.02236068, 0.01057371)),
    "diloco": ("DiLoCo", "config/diloco/2x_4gpu_diloco_streaming.py", (0.003, 0.0016870, 0.00094868)),
}
OUTER_LRS = (0.9, 0.8)
BITS = (2, 4, 8)


def sweep() -> Sweep:
    grids = []
    for name, (method, config, rates) in METHODS.items():
        point = paper.point(method, SIZE, WORKERS, batch=BATCH)
        grids += [
            paper.grid(name, method, [point]),
            paper.grid(f"{name}-streaming", method, [point], config=config),
            paper.grid(f"{name}-streaming-compressed", method, _compressed(method, point, rates), config=config),
        ]
    return Sweep(*grids)


def _compressed(method: paper.Method, point: Point, rates: tuple[float, ...]) -> list[Point]:
    """The published launcher's grid: levels for each row, error feedback, embedding and head as fp32."""
    common: Point = {
        "compression.kind": "statistical",
        "compression.granularity": "row",
        "compression.skip_embeddings": True,
        "validation.freq": 30,
    }
    axes = product({"optimizer.lr": [Given(lr, SOURCE) for lr in rates], "compression.bits": BITS})
    return [
        {**point, **common, **chosen, **paper.error_feedback(method, WORKERS, True, outer_lr=outer_lr)}
        for chosen in axes
        for outer_lr in OUTER_LRS
    ]


if __name__ == "__main__":
    sys.exit(main(["sweep", __file__, *sys.argv[1:]]))
