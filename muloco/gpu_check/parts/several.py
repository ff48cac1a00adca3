"""Rows that need two, four or eight GPUs."""

from muloco.gpu_check.row import Part, Row

LIMIT = 240

PART = Part(
    "several",
    "checks on 2, 4 or 8 GPUs: NCCL between workers, sharded Muon, tensor parallelism",
    (
        Row(
            name="nccl_two",
            what="one GPU for each worker, with the outer exchange over NCCL: the digests are equal",
            where=("launch/placement/local.py", "outer/wire/torchft_round.py"),
            command="run `muloco train config/laptop/muloco.py` on two GPUs",
            check="several:nccl_two",
            gpus=2,
            seconds=60,
            limit=LIMIT,
        ),
        Row(
            name="nccl_streaming",
            what="the round of a fragment in its own thread and stream during the inner steps, over NCCL: the "
            "digests are equal, and the losses agree with those over gloo",
            where=("outer/loop/background.py",),
            command="run `muloco train config/laptop/muloco_streaming.py` on two GPUs; `seconds_hidden` is near the "
            "time of the round, the digests are equal, and the losses agree with those with "
            "`--fault_tolerance.process_group gloo`",
            check="several:nccl_streaming",
            gpus=2,
            seconds=100,
            limit=LIMIT,
        ),
        Row(
            name="nccl_four_bits",
            what="compressed exchange over NCCL with an all-to-all of uneven sizes: the digests are equal, and as many "
            "bytes are sent as over gloo",
            where=("outer/protocol/exchange.py",),
            command="run `muloco train config/laptop/muloco_4bit.py` on two GPUs; the digests are equal, and "
            "`bytes_sent` is that with `--fault_tolerance.process_group gloo`",
            check="several:nccl_four_bits",
            gpus=2,
            seconds=100,
            limit=LIMIT,
        ),
        Row(
            name="nccl_killed",
            what="a round over NCCL is a transaction: a worker that is killed in it changes no anchor, and rejoins",
            where=("outer/wire/peer_group.py", "outer/wire/torchft_round.py"),
            command="run `muloco train config/laptop/muloco.py` on two GPUs and `kill -9` a worker; digests are equal",
            check="several:nccl_killed",
            gpus=2,
            seconds=110,
            limit=LIMIT,
        ),
        Row(
            name="nccl_offload",
            what="anchor and outer state in pinned host memory with an exchange over NCCL: the digests are equal",
            where=("outer/loop/fragment.py",),
            command="run `muloco train config/laptop/muloco_streaming.py --outer_optimizer.offload True` on two GPUs; "
            "the losses agree with those without offloading",
            check="several:nccl_offload",
            gpus=2,
            seconds=60,
            limit=LIMIT,
        ),
        Row(
            name="muon_two_ranks",
            what="Muon's exchange of shards over NCCL with FSDP2 and DDP on two ranks, compared with one rank",
            where=("optim/all_to_all.py",),
            command="run the example in docs/muon-with-fsdp.md on two GPUs; on four GPUs, run `pytest "
            "tests/optim/test_muon_sharded.py` with `gloo` changed to `nccl` and `cpu` to `cuda`",
            check="several:muon_two_ranks",
            gpus=2,
            seconds=40,
            limit=LIMIT,
        ),
        Row(
            name="eval_two_ranks",
            what="`muloco eval` on several devices: the figures agree with those on one device",
            where=("evals/scoring.py", "model/attention.py"),
            command="run `torchrun --nproc-per-node 2 -m muloco eval outputs/NAME --tasks ...` on two GPUs",
            check="several:eval_two_ranks",
            gpus=2,
            seconds=40,
            limit=LIMIT,
            after=("evaluation_in_training",),
        ),
        Row(
            name="muon_four_ranks",
            what="Muon's exchange of shards over NCCL with HSDP on two by two ranks, compared with one rank",
            where=("optim/all_to_all.py",),
            command="run the example in docs/muon-with-fsdp.md on four GPUs",
            check="several:muon_four_ranks",
            gpus=4,
            seconds=50,
            limit=LIMIT,
        ),
        Row(
            name="tensor_parallel",
            what="tensor parallelism over NCCL with FSDP2, with and without torch.compile",
            where=(
                "model/decoder.py",
                "model/architectures/paper_llama/network.py",
            ),
            command="run `muloco train config/laptop/muloco.py --fault_tolerance.group_size 1 "
            "--parallelism.tensor_parallel_degree 2 --parallelism.data_parallel_shard_degree 2 "
            "--compile.enable True` on four GPUs",
            check="several:tensor_parallel",
            gpus=4,
            seconds=120,
            limit=LIMIT,
        ),
        Row(
            name="two_by_four",
            what="two workers of four GPUs each",
            where=("config/diloco/",),
            command="run `muloco train config/diloco/2x_4gpu_muloco.py --training.steps 60` on eight GPUs",
            check="several:two_by_four",
            gpus=8,
            seconds=120,
            limit=LIMIT,
        ),
    ),
)
