"""Rows for workers in separate processes that share one GPU, and therefore exchange over gloo."""

from muloco.gpu_check.row import Part, Row

PART = Part(
    "gloo",
    "several workers that share one GPU and exchange over gloo",
    (
        Row(
            name="gloo_two",
            what="two workers in separate processes on one GPU, streaming over gloo during the inner steps",
            where=("launch/placement/local.py", "outer/loop/in_flight.py", "outer/wire/torchft_round.py"),
            command="run `muloco train config/laptop/muloco_streaming.py` on one GPU",
            check="gloo:two",
            seconds=60,
            limit=180,
        ),
        Row(
            name="gloo_eight",
            what="eight workers on one GPU, with the outer exchange over gloo",
            where=("launch/placement/local.py", "outer/loop/outer_loop.py"),
            command="run `jobs/diloco/debug_8workers_x1gpu.sh` on one GPU",
            check="gloo:eight",
            seconds=60,
            limit=200,
        ),
        Row(
            name="gloo_killed",
            what="one of two workers on one GPU is killed, rejoins, and takes over the state of the other",
            where=("launch/supervisor.py", "outer/wire/torchft.py"),
            command="run `muloco train config/laptop/muloco.py` on one GPU and `kill -9` a worker; digests are equal",
            check="gloo:killed",
            seconds=100,
            limit=240,
        ),
    ),
)
