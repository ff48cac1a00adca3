"""The inner-LR grid: every method, size and number of workers with learning rates around the best one known.

muloco sweep jobs/muloco_paper/inner_lr.py [--submit | status] [--section.field value ...]
"""

import sys

from muloco.cli import main
from muloco.recipes import model_map as paper
from muloco.sweeps.sweep import Grid, Sweep

STEPS_AROUND = 2  # sqrt 2 each


def sweep() -> Sweep:
    return Sweep(
        _method("dp-muon", "DP Muon", (0,)),
        _method("dp-adamw", "DP AdamW", (0,)),
        _method("muloco", "MuLoCo", paper.WORKERS),
        _method("diloco", "DiLoCo", paper.WORKERS),
    )


def _method(name: str, method: paper.Method, workers: tuple[int, ...]) -> Grid:
    points = [
        paper.point(method, size, k, lr=lr)
        for size in paper.SIZES
        for k in workers
        for lr in paper.around(paper.best_lr(method, size, k), STEPS_AROUND)
    ]
    return paper.grid(name, method, points)


if __name__ == "__main__":
    sys.exit(main(["sweep", __file__, *sys.argv[1:]]))
