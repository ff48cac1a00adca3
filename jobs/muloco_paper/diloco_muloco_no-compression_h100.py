"""MuLoCo and DiLoCo at every size with 1 to 16 workers, at the best hyperparameters known (PAPER 5.1, 5.2).

muloco sweep jobs/muloco_paper/diloco_muloco_no-compression_h100.py [--submit | status] [--section.field value ...]
"""

import sys

from muloco.cli import main
from muloco.recipes import model_map as paper
from muloco.sweeps.sweep import Grid, Sweep


def sweep() -> Sweep:
    return Sweep(_method("muloco", "MuLoCo"), _method("diloco", "DiLoCo"))


def _method(name: str, method: paper.Method) -> Grid:
    points = [paper.point(method, size, workers) for size in paper.SIZES for workers in paper.WORKERS]
    return paper.grid(name, method, points)


if __name__ == "__main__":
    sys.exit(main(["sweep", __file__, *sys.argv[1:]]))
