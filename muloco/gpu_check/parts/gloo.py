"""Workers in processes of their own that share one GPU, and so exchange over gloo."""

from muloco.gpu_check.row import Part, Row

PART = Part(
    "gloo",
    "several workers that share one GPU and exchange over gloo",
    (
        Row(
            name="gloo_two",
            what="two workers in processes of their own on one GPU, streaming over gloo beside the inner steps",
            where=("launch/devices.py", "outer/loop.py", "outer/torchft.py"),
            command="`muloco train config/laptop/muloco_streaming.py` on one GPU",
            check="gloo:two",
            seconds=60,
            limit=180,
        ),
        Row(
            name="gloo_eight",
            what="eight workers that share a device, outer exchange over gloo",
            where=("launch/devices.py", "outer/loop.py"),
            command="`jobs/diloco/debug_8workers_x1gpu.sh` on one GPU",
            check="gloo:eight",
            seconds=60,
            limit=200,
        ),
        Row(
            name="gloo_killed",
            what="a worker that is killed while two share a GPU comes back and takes over the state of the other",
            where=("launch/supervisor.py", "outer/torchft.py"),
            command="`muloco train config/laptop/muloco.py` on one GPU, and `kill -9` of a worker; digests equal",
            check="gloo:killed",
            seconds=100,
            limit=240,
        ),
    ),
)
