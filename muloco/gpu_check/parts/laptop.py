"""Rows for short training runs at laptop size, which run side by side, and for the commands that read their
checkpoints."""

from muloco.gpu_check.row import Part, Row

LIMIT = 180

PART = Part(
    "laptop",
    "short training runs with many settings; eval, generate, export and analysis of their checkpoints",
    (
        Row(
            name="train",
            what="training on CUDA: FSDP2 over NCCL within a worker, bf16, torch.compile, FlexAttention",
            where=("training/titan_config.py", "model/decoder.py"),
            command="run `muloco train config/laptop/muloco.py --training.precision bfloat16 --compile.enable True`",
            check="laptop:train",
            seconds=45,
            limit=LIMIT,
        ),
        Row(
            name="evaluation_in_training",
            what="evaluation during training with compiled FlexAttention: block masks of prefix trees; the losses "
            "agree with those of a run without evaluation, so the random state of the device is kept",
            where=("model/attention.py", "evals/scoring.py", "training/evaluation.py"),
            command="run `muloco train config/laptop/muloco.py --evaluation.tasks ... --evaluation.at 0.5 1.0 "
            "--compile.enable True`; the losses agree with those without `--evaluation`",
            check="laptop:evaluation_in_training",
            seconds=60,
            limit=LIMIT,
            after=("train",),
        ),
        Row(
            name="autocast",
            what="training with autocast instead of bf16 parameters",
            where=("training/titan_config.py",),
            command="run `muloco train config/laptop/muloco.py --training.precision autocast --compile.enable True`",
            check="laptop:autocast",
            seconds=45,
            limit=LIMIT,
        ),
        Row(
            name="eager",
            what="training, and evaluation during training, without torch.compile",
            where=("training/titan_config.py", "model/attention.py"),
            command="run `muloco train config/laptop/muloco.py --training.precision bfloat16 --evaluation.tasks ...`",
            check="laptop:eager",
            seconds=75,
            limit=240,
        ),
        Row(
            name="selective_checkpointing",
            what="selective activation checkpointing with FlexAttention",
            where=("training/titan_config.py",),
            command="run `muloco train config/laptop/muloco.py --activation_checkpoint.mode selective`",
            check="laptop:selective_checkpointing",
            seconds=45,
            limit=LIMIT,
        ),
        Row(
            name="full_checkpointing",
            what="full activation checkpointing with FlexAttention",
            where=("training/titan_config.py",),
            command="run `muloco train config/laptop/muloco.py --activation_checkpoint.mode full`",
            check="laptop:full_checkpointing",
            seconds=45,
            limit=LIMIT,
        ),
        Row(
            name="cuda_graphs",
            what="forward and backward passes in CUDA graphs, with outer steps and validation in between: the losses "
            "agree with those without CUDA graphs",
            where=("training/titan_config.py",),
            command="run `muloco train config/laptop/muloco.py` with and without `--training.disable_cuda_graphs True`",
            check="laptop:cuda_graphs",
            seconds=45,
            limit=LIMIT,
            after=("train",),
        ),
        Row(
            name="chunked_loss",
            what="the loss in chunks, as for a large vocabulary: the losses agree with those without chunks",
            where=("training/titan_config.py",),
            command="train with `titan_config.LARGE_VOCABULARY` set below the vocabulary of the run",
            check="laptop:chunked_loss",
            seconds=45,
            limit=LIMIT,
            after=("train",),
        ),
        Row(
            name="in_process",
            what="workers in one process on one CUDA device, streaming: the digests of two runs are equal",
            where=("outer/in_process.py",),
            command="run `muloco train config/laptop/muloco_streaming.py --fault_tolerance.transport in_process "
            "--fault_tolerance.group_size 4 --training.local_batch_size 4 --optimizer.symmetric_products matmul` twice",
            check="laptop:in_process",
            seconds=60,
            limit=LIMIT,
        ),
        Row(
            name="offload",
            what="anchor and outer state in pinned host memory: the losses agree with those without offloading",
            where=("outer/loop/fragment.py",),
            command="run `muloco train config/laptop/muloco_streaming.py --outer_optimizer.offload True`",
            check="laptop:offload",
            seconds=45,
            limit=LIMIT,
            after=("in_process",),
        ),
        Row(
            name="four_bits",
            what="training with 4-bit pseudogradients and error feedback",
            where=("outer/protocol/exchange.py", "outer/codecs/error_feedback.py"),
            command="run `muloco train config/laptop/muloco_4bit.py --fault_tolerance.transport in_process`",
            check="laptop:four_bits",
            seconds=45,
            limit=LIMIT,
        ),
        Row(
            name="gpa",
            what="training with Generalized Primal Averaging",
            where=("optim/gpa.py", "training/context.py"),
            command="run `muloco train config/laptop/gpa.py --fault_tolerance.transport in_process`",
            check="laptop:gpa",
            seconds=45,
            limit=LIMIT,
        ),
        Row(
            name="metrics",
            what="the fields of TFLOP/s, MFU and memory in the metrics, and the FLOPs a token compared with PyTorch's "
            "counter",
            where=("training/metrics.py", "_torchtitan.py"),
            command="run `muloco train config/laptop/muloco.py --training.precision bfloat16`; compare `tflops` of a "
            "line with `torch.utils.flop_counter`, and `memory_gib` with nvidia-smi",
            check="laptop:metrics",
            after=("train",),
        ),
        Row(
            name="eval",
            what="`muloco eval` on CUDA with dense masks in SDPA and bf16 weights: the figures agree with those of "
            "evaluation during training",
            where=("evals/scoring.py", "model/attention.py"),
            command="run `muloco eval outputs/NAME --tasks ...`",
            check="laptop:evaluate",
            seconds=25,
            limit=LIMIT,
            after=("evaluation_in_training",),
        ),
        Row(
            name="generate",
            what="`muloco generate` on CUDA",
            where=("commands/generate.py", "model/generation.py"),
            command='run `muloco generate outputs/NAME --prompt "def main("`',
            check="laptop:generate",
            seconds=15,
            after=("train",),
        ),
        Row(
            name="export",
            what="`muloco export` of a run trained on CUDA, and reading the result with transformers",
            where=("export/",),
            command="run `muloco export outputs/NAME FOLDER`",
            check="laptop:export",
            seconds=15,
            after=("train",),
        ),
        Row(
            name="pseudogradients",
            what="pseudogradients computed from a checkpoint on a GPU with torch.compile, and their SVD in float64",
            where=("training/continuation.py", "analysis/pseudogradients/collect.py"),
            command="run `muloco analyze pseudogradients outputs/NAME --workers 1 2`; the error of the proposition is "
            "below 1e-6",
            check="laptop:pseudogradients",
            seconds=40,
            limit=LIMIT,
            after=("train",),
        ),
    ),
)
