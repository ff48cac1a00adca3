"""The paper's six runs at 15B (PAPER 4.1, 5.1).

muloco sweep jobs/muloco_paper/15B.py [--submit | status] [--section.field value ...]
"""

import sys

from muloco.cli import main
from muloco.recipes import model_map as paper
from muloco.sweeps.sweep import Grid, Sweep


def sweep() -> Sweep:
    return Sweep(*(_method(name, method) for name, method in paper.METHODS.items()))


def _method(name: str, method: paper.Method) -> Grid:
    return paper.grid(name, method, [paper.point(method, "15B", workers) for workers in paper.BATCH_15B[method]])


if __name__ == "__main__":
    sys.exit(main(["sweep", __file__, *sys.argv[1:]]))
