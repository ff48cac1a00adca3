"""Rows that only a person can check, because they need several machines, a cluster, or judgement."""

from muloco.gpu_check.row import Part, Row

PART = Part(
    "by_hand",
    "rows that only a person can check",
    (
        Row(
            name="exchange_overlap",
            what="how far Muon's exchange of shards on NCCL's stream overlaps with its matrix products, and how many "
            "bytes to send at a time",
            where=("optim/all_to_all.py", "optim/owners.py"),
            command="run a step of the example in docs/muon-with-fsdp.md on larger matrices under `torch.profiler`, "
            "for several `EXCHANGE_BYTES`",
            by_hand="a person has to read the profile",
            gpus=2,
        ),
        Row(
            name="slurm",
            what="a SLURM job on GPU nodes: the devices of each worker where SLURM confines them by cgroups, the "
            "cores, NCCL between nodes, and addresses on several interfaces",
            where=("launch/placement/slurm.py", "launch/placement/node.py"),
            command='follow `RUNNING_JOBS.md` from "Then train on two nodes" on, and train '
            "`config/diloco/2x_4gpu_muloco.py` on one node of eight GPUs and on four nodes of two",
            by_hand="it needs a SLURM cluster",
            gpus=8,
        ),
        Row(
            name="slurm_signal",
            what="SIGUSR1 to all processes of a SLURM step (with compile workers and W&B) while a run on GPUs saves",
            where=("launch/placement/node.py",),
            command="run `scancel --signal=USR1 --batch JOB` during a SLURM job with `--compile.enable True "
            "--metrics.wandb True`",
            by_hand="it needs a SLURM cluster",
        ),
        Row(
            name="containers",
            what="workers in containers on the nodes (`MULOCO_CONTAINER`)",
            where=("launch/placement/allocation.py",),
            command="run a job with `MULOCO_CONTAINER` set to `apptainer exec --nv IMAGE`; the tests set it to `env`",
            by_hand="it needs a SLURM cluster with containers",
        ),
        Row(
            name="paper_quick",
            what="several runs at once on one device, each with its K workers in one process",
            where=("sweeps/local.py", "reproduce/"),
            command="run `muloco reproduce --quick --at-once 4` on one GPU",
            by_hand="it takes longer than a check is allowed to",
        ),
    ),
)
