"""Rows for short training runs: at laptop size side by side, with the commands that read their checkpoints; on one GPU
that several workers share, which therefore exchange over gloo; and on two, four or eight GPUs."""

from functools import partial

from muloco.gpu_check.row import Part, Row

_Gloo = partial(Row, module="gloo", seconds=60)
_Laptop = partial(Row, module="laptop", seconds=45)
_Several = partial(Row, module="several", seconds=60, gpus=2)

GLOO = Part(
    "gloo",
    "several workers that share one GPU and exchange over gloo",
    (
        _Gloo(
            "gloo_two",
            "two workers in separate processes on one GPU, streaming over gloo during the inner steps",
            ("launch/placement/local.py", "outer/loop/in_flight.py", "outer/protocol/peer_round.py"),
            "run `muloco train config/laptop/muloco_streaming.py` on one GPU",
        ),
        _Gloo(
            "gloo_eight",
            "eight workers on one GPU, with the outer exchange over gloo",
            ("launch/placement/local.py", "outer/loop/outer_loop.py"),
            "run `jobs/diloco/debug_8workers_x1gpu.sh` on one GPU",
        ),
        _Gloo(
            "gloo_killed",
            "one of two workers on one GPU is killed, rejoins, and takes over the state of the other",
            ("launch/supervisor.py", "outer/wire/torchft.py"),
            "run `muloco train config/laptop/muloco.py` on one GPU and `kill -9` a worker; digests are equal",
            seconds=100,
        ),
    ),
)

LAPTOP = Part(
    "laptop",
    "short training runs with many settings; eval, generate, export and analysis of their checkpoints",
    (
        _Laptop(
            "train",
            "training on CUDA: FSDP2 over NCCL within a worker, bf16, torch.compile, FlexAttention",
            ("training/titan_config.py", "model/decoder.py"),
            "run `muloco train config/laptop/muloco.py --training.precision bfloat16 --compile.enable True`",
        ),
        _Laptop(
            "evaluation_in_training",
            "evaluation during training with compiled FlexAttention: block masks of prefix trees; the losses agree "
            "with those of a run without evaluation, so the random state of the device is kept",
            ("model/attention.py", "evals/scoring.py", "training/evaluation.py"),
            "run `muloco train config/laptop/muloco.py --evaluation.tasks ... --evaluation.at 0.5 1.0 "
            "--compile.enable True`; the losses agree with those without `--evaluation`",
            seconds=60,
            after="train",
        ),
        _Laptop(
            "autocast",
            "training with autocast instead of bf16 parameters",
            ("training/titan_config.py",),
            "run `muloco train config/laptop/muloco.py --training.precision autocast --compile.enable True`",
        ),
        _Laptop(
            "eager",
            "training, and evaluation during training, without torch.compile",
            ("training/titan_config.py", "model/attention.py"),
            "run `muloco train config/laptop/muloco.py --training.precision bfloat16 --evaluation.tasks ...`",
            seconds=75,
        ),
        _Laptop(
            "selective_checkpointing",
            "selective activation checkpointing with FlexAttention",
            ("training/titan_config.py",),
            "run `muloco train config/laptop/muloco.py --activation_checkpoint.mode selective`",
        ),
        _Laptop(
            "full_checkpointing",
            "full activation checkpointing with FlexAttention",
            ("training/titan_config.py",),
            "run `muloco train config/laptop/muloco.py --activation_checkpoint.mode full`",
        ),
        _Laptop(
            "cuda_graphs",
            "forward and backward passes in CUDA graphs, with outer steps and validation in between: the losses "
            "agree with those without CUDA graphs",
            ("training/titan_config.py",),
            "run `muloco train config/laptop/muloco.py` with and without `--training.disable_cuda_graphs True`",
            after="train",
        ),
        _Laptop(
            "chunked_loss",
            "the loss in chunks, as for a large vocabulary: the losses agree with those without chunks",
            ("training/titan_config.py",),
            "train with `titan_config.LARGE_VOCABULARY` set below the vocabulary of the run",
            after="train",
        ),
        _Laptop(
            "in_process",
            "workers in one process on one CUDA device, streaming: the digests of two runs are equal",
            ("outer/in_process.py",),
            "run `muloco train config/laptop/muloco_streaming.py --fault_tolerance.transport in_process "
            "--fault_tolerance.group_size 4 --training.local_batch_size 4 --optimizer.symmetric_products matmul` "
            "twice",
            seconds=60,
        ),
        _Laptop(
            "offload",
            "anchor and outer state in pinned host memory: the losses agree with those without offloading",
            ("outer/loop/fragment.py",),
            "run `muloco train config/laptop/muloco_streaming.py --outer_optimizer.offload True`",
            after="in_process",
        ),
        _Laptop(
            "four_bits",
            "training with 4-bit pseudogradients and error feedback",
            ("outer/protocol/exchange.py", "outer/codecs/error_feedback.py"),
            "run `muloco train config/laptop/muloco_4bit.py --fault_tolerance.transport in_process`",
        ),
        _Laptop(
            "gpa",
            "training with Generalized Primal Averaging",
            ("optim/gpa.py", "training/context.py"),
            "run `muloco train config/laptop/gpa.py --fault_tolerance.transport in_process`",
        ),
        _Laptop(
            "metrics",
            "the fields of TFLOP/s, MFU and memory in the metrics, and the FLOPs a token compared with PyTorch's "
            "counter",
            ("training/metrics.py", "_torchtitan.py"),
            "run `muloco train config/laptop/muloco.py --training.precision bfloat16`; compare `tflops` of a line "
            "with `torch.utils.flop_counter`, and `memory_gib` with nvidia-smi",
            seconds=10,
            after="train",
        ),
        _Laptop(
            "eval",
            "`muloco eval` on CUDA with dense masks in SDPA and bf16 weights: the figures agree with those of "
            "evaluation during training",
            ("evals/scoring.py", "model/attention.py"),
            "run `muloco eval outputs/NAME --tasks ...`",
            seconds=25,
            after="evaluation_in_training",
        ),
        _Laptop(
            "generate",
            "`muloco generate` on CUDA",
            ("commands/generate.py", "model/generation.py"),
            'run `muloco generate outputs/NAME --prompt "def main("`',
            seconds=15,
            after="train",
        ),
        _Laptop(
            "export",
            "`muloco export` of a run trained on CUDA, and reading the result with transformers",
            ("export/",),
            "run `muloco export outputs/NAME FOLDER`",
            seconds=15,
            after="train",
        ),
        _Laptop(
            "pseudogradients",
            "pseudogradients computed from a checkpoint on a GPU with torch.compile, and their SVD in float64",
            ("training/continuation.py", "analysis/pseudogradients/collect.py"),
            "run `muloco analyze pseudogradients outputs/NAME --workers 1 2`; the error of the proposition is below "
            "1e-6",
            seconds=40,
            after="train",
        ),
    ),
)

SEVERAL = Part(
    "several",
    "checks on 2, 4 or 8 GPUs: NCCL between workers, sharded Muon, tensor parallelism",
    (
        _Several(
            "nccl_two",
            "one GPU for each worker, with the outer exchange over NCCL: the digests are equal",
            ("launch/placement/local.py", "outer/protocol/peer_round.py"),
            "run `muloco train config/laptop/muloco.py` on two GPUs",
        ),
        _Several(
            "nccl_streaming",
            "the round of a fragment in its own thread and stream during the inner steps, over NCCL: the digests are "
            "equal, and the losses agree with those over gloo",
            ("outer/loop/background.py",),
            "run `muloco train config/laptop/muloco_streaming.py` on two GPUs; `seconds_hidden` is near the time of "
            "the round, the digests are equal, and the losses agree with those with `--fault_tolerance.process_group "
            "gloo`",
            seconds=100,
        ),
        _Several(
            "nccl_four_bits",
            "compressed exchange over NCCL with an all-to-all of uneven sizes: the digests are equal, and as many "
            "bytes are sent as over gloo",
            ("outer/protocol/exchange.py",),
            "run `muloco train config/laptop/muloco_4bit.py` on two GPUs; the digests are equal, and `bytes_sent` is "
            "that with `--fault_tolerance.process_group gloo`",
            seconds=100,
        ),
        _Several(
            "nccl_killed",
            "a round over NCCL is a transaction: a worker that is killed in it changes no anchor, and rejoins",
            ("outer/wire/peer_group.py", "outer/protocol/peer_round.py"),
            "run `muloco train config/laptop/muloco.py` on two GPUs and `kill -9` a worker; digests are equal",
            seconds=110,
        ),
        _Several(
            "nccl_offload",
            "anchor and outer state in pinned host memory with an exchange over NCCL: the digests are equal",
            ("outer/loop/fragment.py",),
            "run `muloco train config/laptop/muloco_streaming.py --outer_optimizer.offload True` on two GPUs; the "
            "losses agree with those without offloading",
        ),
        _Several(
            "muon_two_ranks",
            "Muon's exchange of shards over NCCL with FSDP2 and DDP on two ranks, compared with one rank",
            ("optim/all_to_all.py",),
            "run the example in docs/muon-with-fsdp.md on two GPUs; on four GPUs, run `pytest "
            "tests/optim/test_muon_sharded.py` with `gloo` changed to `nccl` and `cpu` to `cuda`",
            seconds=40,
        ),
        _Several(
            "eval_two_ranks",
            "`muloco eval` on several devices: the figures agree with those on one device",
            ("evals/scoring.py", "model/attention.py"),
            "run `torchrun --nproc-per-node 2 -m muloco eval outputs/NAME --tasks ...` on two GPUs",
            seconds=40,
            after="evaluation_in_training",
        ),
        _Several(
            "muon_four_ranks",
            "Muon's exchange of shards over NCCL with HSDP on two by two ranks, compared with one rank",
            ("optim/all_to_all.py",),
            "run the example in docs/muon-with-fsdp.md on four GPUs",
            seconds=50,
            gpus=4,
        ),
        _Several(
            "tensor_parallel",
            "tensor parallelism over NCCL with FSDP2, with and without torch.compile",
            ("model/decoder.py", "model/architectures/paper_llama/network.py"),
            "run `muloco train config/laptop/muloco.py --fault_tolerance.group_size 1 "
            "--parallelism.tensor_parallel_degree 2 --parallelism.data_parallel_shard_degree 2 --compile.enable "
            "True` on four GPUs",
            seconds=120,
            gpus=4,
        ),
        _Several(
            "pipeline",
            "a pipeline of two stages over NCCL with FSDP2 in each of them",
            ("_torchtitan.py", "training/validation.py"),
            "run `muloco train config/laptop/muloco.py --fault_tolerance.group_size 1 "
            "--parallelism.pipeline_parallel_degree 2 --parallelism.data_parallel_shard_degree 2` on four GPUs",
            seconds=80,
            gpus=4,
        ),
        _Several(
            "two_by_four",
            "two workers of four GPUs each",
            ("config/diloco/",),
            "run `muloco train config/diloco/2x_4gpu_muloco.py --training.steps 60` on eight GPUs",
            seconds=120,
            gpus=8,
        ),
    ),
)
