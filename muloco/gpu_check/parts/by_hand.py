"""Rows that only a person can check, because they need several machines, a cluster, or judgement."""

from muloco.gpu_check.row import Part, Row

BY_HAND = Part(
    "by_hand",
    "rows that only a person can check",
    (
        Row(
            "exchange_overlap",
            "how far Muon's exchange of shards on NCCL's stream overlaps with its matrix products, and how many "
            "bytes to send at a time",
            ("optim/all_to_all.py", "optim/owners.py"),
            "run a step of the example in docs/muon-with-fsdp.md on larger matrices under `torch.profiler`, for "
            "several `EXCHANGE_BYTES`",
            gpus=2,
            by_hand="a person has to read the profile",
        ),
        Row(
            "slurm",
            "a SLURM job on GPU nodes: the devices of each worker where SLURM confines them by cgroups, the cores, "
            "NCCL between nodes, and addresses on several interfaces",
            ("launch/placement/slurm.py", "launch/placement/node.py"),
            'follow `RUNNING_JOBS.md` from "Then train on two nodes" on, and train `config/diloco/2x_4gpu_muloco.py` '
            "on one node of eight GPUs and on four nodes of two",
            gpus=8,
            by_hand="it needs a SLURM cluster",
        ),
        Row(
            "slurm_signal",
            "SIGUSR1 to all processes of a SLURM step (with compile workers and W&B) while a run on GPUs saves",
            ("launch/placement/node.py",),
            "run `scancel --signal=USR1 --batch JOB` during a SLURM job with `--compile.enable True --metrics.wandb "
            "True`",
            by_hand="it needs a SLURM cluster",
        ),
        Row(
            "containers",
            "workers in containers on the nodes (`MULOCO_CONTAINER`)",
            ("launch/placement/allocation.py",),
            "run a job with `MULOCO_CONTAINER` set to `apptainer exec --nv IMAGE`; the tests set it to `env`",
            by_hand="it needs a SLURM cluster with containers",
        ),
        Row(
            "paper_quick",
            "several runs at once on one device, each with its K workers in one process",
            ("sweeps/local.py", "reproduce/"),
            "run `muloco reproduce --quick --at-once 4` on one GPU",
            by_hand="it takes longer than a check is allowed to",
        ),
    ),
)
