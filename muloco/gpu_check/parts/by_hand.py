"""What only a person can check, because it needs more than one machine, a cluster, or a look."""

from muloco.gpu_check.row import Part, Row

PART = Part(
    "by_hand",
    "nothing that runs by itself: rows for a person",
    (
        Row(
            name="exchange_overlap",
            what="the overlap of Muon's exchange of shards with the products, on NCCL's stream; how many bytes to send "
            "at a time",
            where=("optim/travel.py", "optim/owners.py"),
            command="a step of the example of docs/muon-with-fsdp.md on larger matrices under `torch.profiler`, for "
            "several `EXCHANGE_BYTES`",
            by_hand="a person reads the profile",
            gpus=2,
        ),
        Row(
            name="slurm",
            what="a SLURM job on GPU nodes: devices of each worker where SLURM confines them by cgroups, cores, NCCL "
            "between nodes, addresses on several interfaces",
            where=("launch/slurm.py", "launch/node.py"),
            command='`RUNNING_JOBS.md` from "Then train on two nodes" on, and `config/diloco/2x_4gpu_muloco.py` on '
            "one node of eight GPUs and on four of two",
            by_hand="it needs a SLURM cluster",
            gpus=8,
        ),
        Row(
            name="slurm_signal",
            what="SIGUSR1 to all processes of a step (compile workers, W&B) while a run on GPUs saves",
            where=("launch/node.py",),
            command="`scancel --signal=USR1 --batch JOB` during such a job with `--compile.enable True "
            "--metrics.wandb True`",
            by_hand="it needs a SLURM cluster",
        ),
        Row(
            name="containers",
            what="containers on nodes (`MULOCO_CONTAINER`)",
            where=("launch/allocation.py",),
            command="a job with `apptainer exec --nv IMAGE`; the tests here have put `env` in its place",
            by_hand="it needs a SLURM cluster with containers",
        ),
        Row(
            name="paper_quick",
            what="runs that share a device: several at once, each with its K workers in one process",
            where=("sweeps/local.py", "paper/"),
            command="`muloco paper --quick --at-once 4` on one GPU",
            by_hand="it takes longer than a check may",
        ),
    ),
)
