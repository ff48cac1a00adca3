"""Loss against the batch at 3.1B, for every method and number of workers (PAPER 5.3).

    muloco sweep jobs/muloco_paper/batch_sizes_3.1B.py [--submit | status] [--section.field value ...]

The inner learning rate is that of the best batch throughout; the paper swept it again for each.
"""

import sys

from muloco.cli import main
from muloco.recipes import model_map as paper
from muloco.sweeps.sweep import Grid, Sweep

# Smallest and largest batch of the figure, in sequences, by K
BATCHES: dict[paper.Method, dict[int, tuple[int, int]]] = {
    "DP Muon": {0: (128, 8192)},
    "DP AdamW": {0: (128, 4096)},
    "MuLoCo": {1: (128, 8192), 2: (256, 8192), 4: (256, 8192), 8: (512, 8192), 16: (1024, 8192)},
    "DiLoCo": {1: (128, 8192), 2: (256, 4096), 4: (256, 4096), 8: (256, 4096), 16: (512, 2048)},
}


def sweep() -> Sweep:
    return Sweep(*(_method(name, method) for name, method in paper.METHODS.items()))


def _method(name: str, method: paper.Method) -> Grid:
    points = []
    for workers, (smallest, largest) in BATCHES[method].items():
        batch = smallest
        while batch <= largest:
            points.append(paper.point(method, "3.1B", workers, batch=batch))
            batch *= 2
    return paper.grid(name, method, points)


if __name__ == "__main__":
    sys.exit(main(["sweep", __file__, *sys.argv[1:]]))
