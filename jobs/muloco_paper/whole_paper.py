"""All runs of the paper: every sweep in this folder, and what two of them share once.

muloco sweep jobs/muloco_paper/whole_paper.py [--submit | status] [--section.field value ...]
"""

import sys
from pathlib import Path

from muloco.cli import main
from muloco.sweeps.files import load_sweep
from muloco.sweeps.sweep import Sweep

PARTS = (
    "ddp_baselines_h100",
    "diloco_muloco_no-compression_h100",
    "inner_lr",
    "batch_sizes_3.1B",
    "sync_intervals_416M",
    "inner_sweep_distributed_quantized_topk",
    "inner_sweep_distributed_quantized_streaming",
    "15B",
)


def sweep() -> Sweep:
    return sum((load_sweep(Path(__file__).with_name(f"{part}.py")) for part in PARTS), Sweep())


if __name__ == "__main__":
    sys.exit(main(["sweep", __file__, *sys.argv[1:]]))
