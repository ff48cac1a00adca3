"""Loss against the sync interval H at 416M (PAPER 5.7).

muloco sweep jobs/muloco_paper/sync_intervals_416M.py [--submit | status] [--section.field value ...]
"""

import sys

from muloco.cli import main
from muloco.recipes import model_map as paper
from muloco.sweeps.sweep import Grid, Sweep

INTERVALS = (15, 60, 120, 240)  # besides 30, that of all other runs
WORKERS = 8  # not stated in the paper; the figure agrees with the losses of K = 8


def sweep() -> Sweep:
    return Sweep(_method("muloco", "MuLoCo"), _method("diloco", "DiLoCo"))


def _method(name: str, method: paper.Method) -> Grid:
    point = paper.point(method, "416M", WORKERS, batch=512)
    points = [point, *({**point, "fault_tolerance.sync_steps": interval} for interval in INTERVALS)]
    return paper.grid(name, method, points)


if __name__ == "__main__":
    sys.exit(main(["sweep", __file__, *sys.argv[1:]]))
