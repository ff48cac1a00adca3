"""Compressed pseudogradients at 416M with eight workers: quantized to 2, 4 and 8 bits, and top-k (PAPER 5.8).

As the published launcher has them: the mean of quantized pseudogradients is encoded once more, that of top-k is exact;
error feedback multiplies by the outer learning rate before it compresses, and the outer step does so again; norms
travel as fp32; 16 sequences in a forward pass. One thing differs: the published runs end 29 steps after their last
sync, as their launcher counts one step less than the others; these sync after the last of their 8160 steps.

muloco sweep jobs/muloco_paper/inner_sweep_distributed_quantized_topk.py [--submit | status] [--section.field ...]
"""

import sys

from muloco.cli import main
from muloco.recipes import model_map as paper
from muloco.sweeps.sweep import Given, Grid, Point, Sweep, product

SIZE = "416M"
WORKERS = paper.workers_on(nodes=1, per_node=8)
BATCH = 512
BITS = (2, 4, 8)
QUANTIZED: Point = {"compression.fraction": None, "compression.values": None}  # which the config has for top-k
CODECS = [
    *product({"compression.kind": ["statistical"], "compression.bits": BITS}),
    *product({"compression.kind": ["linear"], "compression.granularity": ["row"], "compression.bits": BITS}),
    *product({"compression.kind": ["topk"], "compression.fraction": [0.5, 0.25, 0.1, 0.05, 0.025, 0.02, 0.01, 0.005]}),
]


def sweep() -> Sweep:
    return Sweep(
        _compressed("muloco", "MuLoCo", "config/diloco/2x_4gpu_muloco_quantized_outer.py"),
        _compressed("diloco", "DiLoCo", "config/diloco/2x_4gpu_diloco_quantized_outer.py"),
        paper.grid("muloco", "MuLoCo", [paper.point("MuLoCo", SIZE, WORKERS, batch=BATCH)]),
        paper.grid("diloco", "DiLoCo", [paper.point("DiLoCo", SIZE, WORKERS, batch=BATCH)]),
    )


def _compressed(name: str, method: paper.Method, config: str) -> Grid:
    """All codecs, with and without error feedback."""
    common = {
        **paper.point(method, SIZE, WORKERS, batch=BATCH),
        "training.local_batch_size": Given(paper.LOCAL_BATCH[SIZE], "published: not doubled here, PAPER 2.3"),
        "compression.skip_norms": True,
    }
    points = [
        {
            **common,
            **(QUANTIZED if codec["compression.kind"] != "topk" else {}),
            **codec,
            **paper.reduced(codec),
            **feedback,
        }
        for codec in CODECS
        for feedback in (paper.error_feedback(method, WORKERS, on) for on in (False, True))
    ]
    return paper.grid(name, method, [_codec_first(point) for point in points], config=config)


def _codec_first(point: Point) -> Point:
    """The same point with what distinguishes it in the order of its name."""
    telling = ("compression.kind", "compression.error_feedback")
    return {**{field: point[field] for field in (*paper.NAMED, *telling)}, **point}


if __name__ == "__main__":
    sys.exit(main(["sweep", __file__, *sys.argv[1:]]))
