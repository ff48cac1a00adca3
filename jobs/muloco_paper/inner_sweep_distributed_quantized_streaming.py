"""Streaming at 416M with eight workers: in three fragments (PAPER 5.9), and also compressed (PAPER 3.5).

The published launcher cannot run: it calls a function that does not exist (PAPER 11). The compressed runs here are
those that it describes. It sets the two learning rates and how pseudogradients travel; the published configs have the
rest: outer momentum .9, weight decay 1e-4, warm-up 300, 7953 steps. The runs in fp32, with and without fragments, are
at the settings of all other 416M runs. Fragments come with Polar Express in MuLoCo, as in the published config.

muloco sweep jobs/muloco_paper/inner_sweep_distributed_quantized_streaming.py [--submit | status] ...
"""

import sys
from typing import Any

from muloco.cli import main
from muloco.recipes import model_map as paper
from muloco.sweeps.sweep import Given, Point, Sweep, product

SIZE = "416M"
WORKERS = paper.workers_on(nodes=1, per_node=8)
BATCH = 512
SOURCE = "published: the streaming launcher, PAPER 3.5"
CONFIGS = "published: the streaming configs, PAPER 11"
METHODS: dict[str, tuple[paper.Method, str, tuple[float, ...], int]] = {
    "muloco": ("MuLoCo", "config/diloco/2x_4gpu_muloco_streaming.py", (0.04728708, 0.02236068, 0.01057371), 32),
    "diloco": ("DiLoCo", "config/diloco/2x_4gpu_diloco_streaming.py", (0.003, 0.0016870, 0.00094868), 64),
}
"""Method, config, inner learning rates, and the sequences in a forward pass."""
OUTER_LRS = (0.9, 0.8)
BITS = (2, 4, 8)


def sweep() -> Sweep:
    grids = []
    for name, (method, config, rates, local_batch) in METHODS.items():
        point = paper.point(method, SIZE, WORKERS, batch=BATCH)
        compressed = _compressed(method, {**point, "training.local_batch_size": Given(local_batch, SOURCE)}, rates)
        grids += [
            paper.grid(name, method, [point]),
            paper.grid(f"{name}-streaming", method, [point], config=config),
            paper.grid(f"{name}-streaming-compressed", method, compressed, config=config),
        ]
    return Sweep(*grids)


def _compressed(method: paper.Method, point: Point, rates: tuple[float, ...]) -> list[Point]:
    """The published launcher's grid: levels for each row, error feedback, embedding and head as fp32."""
    common: dict[str, Any] = {
        "outer_optimizer.momentum": Given(0.9, CONFIGS),
        "optimizer.weight_decay": Given(1e-4, CONFIGS),
        "lr_scheduler.warmup_steps": Given(300, CONFIGS),
        "training.steps": Given(7953, CONFIGS),
        "compression.kind": "statistical",
        "compression.granularity": "row",
        "compression.skip_embeddings": True,
        "validation.freq": 30,
    }
    common |= paper.reduced(common)
    axes = product({"optimizer.lr": [Given(lr, SOURCE) for lr in rates], "compression.bits": BITS})
    feedback = [paper.error_feedback(method, WORKERS, True, outer_lr=outer_lr) for outer_lr in OUTER_LRS]
    return [{**point, **common, **chosen, **rate} for chosen in axes for rate in feedback]


if __name__ == "__main__":
    sys.exit(main(["sweep", __file__, *sys.argv[1:]]))
