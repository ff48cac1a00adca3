"""The baselines without outer steps: Muon and AdamW at every size, with inner learning rates around the best.

muloco sweep jobs/muloco_paper/ddp_baselines_h100.py [--submit | status] [--section.field value ...]
"""

import sys

from muloco.cli import main
from muloco.recipes import model_map as paper
from muloco.sweeps.sweep import Grid, Sweep

STEPS_AROUND = 1  # of the inner-LR grid; 0: the best alone


def sweep() -> Sweep:
    return Sweep(_baseline("dp-muon", "DP Muon"), _baseline("dp-adamw", "DP AdamW"), _published())


def _baseline(name: str, method: paper.Method) -> Grid:
    points = [
        paper.point(method, size, lr=lr)
        for size in paper.SIZES
        for lr in paper.around(paper.best_lr(method, size), STEPS_AROUND)
    ]
    return paper.grid(name, method, points)


def _published() -> Grid:
    """What the published script of this name sweeps: Muon at 3.1B with 8192 sequences."""
    origin = "published: ddp_baselines_h100.py, PAPER 4.1"
    points = [
        paper.point("DP Muon", "3.1B", batch=8192, lr=paper.Given(lr, origin)) for lr in (0.044194, 0.03125, 0.022097)
    ]
    return paper.grid("dp-muon", "DP Muon", points)


if __name__ == "__main__":
    sys.exit(main(["sweep", __file__, *sys.argv[1:]]))
