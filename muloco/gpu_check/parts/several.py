"""What needs two, four or eight GPUs."""

from muloco.gpu_check.row import Part, Row

LIMIT = 240

PART = Part(
    "several",
    "what needs 2, 4 or 8 GPUs: NCCL between workers, sharded Muon, tensor parallelism",
    (
        Row(
            name="nccl_two",
            what="one device a worker, outer exchange over NCCL: digests equal",
            where=("launch/devices.py", "outer/torchft.py"),
            command="`muloco train config/laptop/muloco.py` on two GPUs",
            check="several:nccl_two",
            gpus=2,
            seconds=60,
            limit=LIMIT,
        ),
        Row(
            name="nccl_streaming",
            what="the round of a fragment in a thread and stream of its own beside the inner steps, over NCCL: digests "
            "equal, losses those of gloo",
            where=("outer/background.py",),
            command="`muloco train config/laptop/muloco_streaming.py` on two GPUs; `seconds_hidden` near the round's "
            "time, digests equal, losses those of `--fault_tolerance.process_group gloo`",
            check="several:nccl_streaming",
            gpus=2,
            seconds=100,
            limit=LIMIT,
        ),
        Row(
            name="nccl_four_bits",
            what="compressed exchange over NCCL, whose all-to-all has parts of uneven sizes: digests equal, bytes sent "
            "as over gloo",
            where=("outer/exchange.py",),
            command="`muloco train config/laptop/muloco_4bit.py` on two GPUs; digests equal, `bytes_sent` as with "
            "`--fault_tolerance.process_group gloo`",
            check="several:nccl_four_bits",
            gpus=2,
            seconds=100,
            limit=LIMIT,
        ),
        Row(
            name="nccl_killed",
            what="a round over NCCL is a transaction: a worker that is killed changes no anchor and comes back",
            where=("outer/torchft.py",),
            command="`muloco train config/laptop/muloco.py` on two GPUs, and `kill -9` of a worker; digests equal",
            check="several:nccl_killed",
            gpus=2,
            seconds=110,
            limit=LIMIT,
        ),
        Row(
            name="nccl_offload",
            what="anchor and outer state in pinned host memory beside an exchange over NCCL: digests equal",
            where=("outer/fragment.py",),
            command="`muloco train config/laptop/muloco_streaming.py --outer_optimizer.offload True` on two GPUs; "
            "losses as without",
            check="several:nccl_offload",
            gpus=2,
            seconds=60,
            limit=LIMIT,
        ),
        Row(
            name="muon_two_ranks",
            what="Muon's exchange of shards over NCCL on FSDP2 and DDP of two ranks, against one rank",
            where=("optim/travel.py",),
            command="the example of docs/muon-with-fsdp.md on two GPUs; `pytest tests/optim/test_muon_sharded.py` "
            "after changing `gloo` to `nccl` and `cpu` to `cuda`, on four",
            check="several:muon_two_ranks",
            gpus=2,
            seconds=40,
            limit=LIMIT,
        ),
        Row(
            name="eval_two_ranks",
            what="`muloco eval` on several devices: figures as on one",
            where=("evals/scoring.py", "model/attention.py"),
            command="`torchrun --nproc-per-node 2 -m muloco eval outputs/NAME --tasks ...` on two GPUs",
            check="several:eval_two_ranks",
            gpus=2,
            seconds=40,
            limit=LIMIT,
            after=("evaluation_in_training",),
        ),
        Row(
            name="muon_four_ranks",
            what="Muon's exchange of shards over NCCL on HSDP of two by two ranks, against one rank",
            where=("optim/travel.py",),
            command="the example of docs/muon-with-fsdp.md on four GPUs",
            check="several:muon_four_ranks",
            gpus=4,
            seconds=50,
            limit=LIMIT,
        ),
        Row(
            name="tensor_parallel",
            what="tensor parallelism on NCCL, with FSDP2, compiled and not",
            where=("model/llama.py",),
            command="`muloco train config/laptop/muloco.py --fault_tolerance.group_size 1 "
            "--parallelism.tensor_parallel_degree 2 --parallelism.data_parallel_shard_degree 2 "
            "--compile.enable True` on four GPUs",
            check="several:tensor_parallel",
            gpus=4,
            seconds=120,
            limit=LIMIT,
        ),
        Row(
            name="two_by_four",
            what="two workers of four GPUs",
            where=("config/diloco/",),
            command="`muloco train config/diloco/2x_4gpu_muloco.py --training.steps 60` on eight GPUs",
            check="several:two_by_four",
            gpus=8,
            seconds=120,
            limit=LIMIT,
        ),
    ),
)
