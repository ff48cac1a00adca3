"""Translates a resolved config to torchtitan's: the only place where the names of both occur."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from muloco._torchtitan import (
    SPMD_BACKEND,
    BaseLoss,
    ChunkedLossWrapper,
    CommConfig,
    CompileConfig,
    CrossEntropyLoss,
    DebugConfig,
    FullAC,
    HuggingFaceTokenizer,
    ParallelismConfig,
    SelectiveAC,
    TrainingConfig,
    device_type,
    loss_may_call_the_head,
    masks_can_be_replayed,
)
from muloco.data.held_out import HeldOutDataLoader
from muloco.data.loader import MixtureLoader, PackedDataLoader, StreamingDataLoader
from muloco.data.prepare import TrainingData
from muloco.model import spec
from muloco.model.flavors import flavor
from muloco.outer.in_process import InProcessGroup
from muloco.runs.folder import RunFolder
from muloco.settings.config import ResolvedConfig
from muloco.training.checkpoint import RunCheckpoint
from muloco.training.evaluation import Evaluation, evaluation_steps
from muloco.training.metrics import RunMetrics
from muloco.training.optimizers import InnerRates, inner_optimizers
from muloco.training.stop_request import StopRequest
from muloco.training.titan_hook import changed_by_user
from muloco.training.trainer import MulocoTrainer
from muloco.training.validation import AnchorValidator
from muloco.training.validation_cost import held_out_batches

ACTIVATION_CHECKPOINTS = {  # the model draws no random numbers, so none need to be restored
    "none": None,
    "selective": SelectiveAC.Config(preserve_rng_state=False),
    "full": FullAC.Config(preserve_rng_state=False),
}
LARGE_VOCABULARY = 2**15
"""Number of entries from which on the loss is computed in chunks."""
CHUNKS = 8
"""Number of chunks of a sequence in which the loss is computed, as in torchtitan's own configs."""


def trainer_config(
    config: ResolvedConfig,
    folder: RunFolder,
    data: TrainingData,
    *,
    attempt: int,
    group: InProcessGroup | None,
    stop: StopRequest,
    evaluation: Evaluation | None,
) -> MulocoTrainer.Config:
    """Returns the config of the trainer of worker `fault_tolerance.replica_id` of a resolved config.

    Args:
        data: as `muloco.training.data.prepare_data` returns it.
        attempt: how many times the run has been started, this one included.
        group, stop, evaluation: see `MulocoTrainer.Config`.
    """
    training, parallelism, size = config.training, config.parallelism, flavor(config.model.flavor)
    worker, ranks = config.fault_tolerance.replica_id, config.data_parallel_ranks
    held_out = HeldOutDataLoader.Config(
        folders=tuple(str(prepared.folder) for prepared in data.held_out),
        weights=data.held_out_weights,
        sequences=config.validation.sequences,
        predict_bos=config.data.predict_bos,
    )
    made = MulocoTrainer.Config(
        muloco=config,
        group=group,
        stop=stop,
        evaluation=evaluation,
        model_spec=spec(config.model.flavor, seq_len=training.seq_len, autocast=training.precision == "autocast"),
        hf_assets_path=str(data.tokenizer_folder),
        dump_folder=str(folder.root),
        tokenizer=HuggingFaceTokenizer.Config(),
        metrics=RunMetrics.Config(
            muloco=config,
            attempt=attempt,
            held_out=held_out,
            tokenizer=str(data.tokenizer_folder),
            log_freq=config.metrics.log_freq,
        ),
        dataloader=_dataloader(config, data),
        optimizer=inner_optimizers(config.optimizer, size.roles, size),
        lr_scheduler=InnerRates(**asdict(config.lr_scheduler)),
        training=TrainingConfig(
            local_batch_size=training.local_batch_size,
            global_batch_size=training.global_batch_size // config.workers,
            seq_len=training.seq_len,
            max_norm=math.inf if training.max_norm is None else training.max_norm,
            steps=training.steps,
            mixed_precision_param="bfloat16" if training.precision == "bfloat16" else "float32",
            disable_cuda_graphs=not records_cuda_graphs(config),
        ),
        parallelism=ParallelismConfig(
            data_parallel_replicate_degree=parallelism.data_parallel_replicate_degree,
            data_parallel_shard_degree=parallelism.data_parallel_shard_degree,
            tensor_parallel_degree=parallelism.tensor_parallel_degree,
            pipeline_parallel_degree=parallelism.pipeline_parallel_degree,
            spmd_backend=SPMD_BACKEND,
        ),
        checkpoint=RunCheckpoint.Config(
            enable=config.checkpoint.enable,
            interval=config.checkpoint.interval,
            keep_latest_k=config.checkpoint.keep,
            initial_load_model_only=False,
            worker=worker,
            attempt=attempt,
            asynchronous=config.checkpoint.asynchronous,
        ),
        activation_checkpoint=ACTIVATION_CHECKPOINTS[config.activation_checkpoint.mode],
        compile=CompileConfig(enable=config.compile.enable),
        comm=CommConfig(
            trace_buf_size=0,
            init_timeout_seconds=math.ceil(parallelism.collective_timeout_seconds),
            train_timeout_seconds=math.ceil(parallelism.collective_timeout_seconds),
        ),
        validator=AnchorValidator.Config(
            enable=True,
            freq=config.validation.freq,
            last_step=training.steps,
            evaluated=evaluation_steps(config),
            steps=held_out_batches(config.validation.sequences, training.local_batch_size * ranks),
            dataloader=held_out,
        ),
        debug=DebugConfig(seed=config.run.seed, enable_structured_logging=False),
        loss=loss_config(vocabulary=flavor(config.model.flavor).vocabulary, seq_len=training.seq_len),
    )
    return made if training.titan is None else changed_by_user(made, Path(training.titan))


def records_cuda_graphs(config: ResolvedConfig) -> bool:
    """Whether the forward and backward pass of a resolved config are recorded into a CUDA graph, as torchtitan does by
    default.

    A graph requires that parameters and gradients stay at their place in memory, as the outer loop, GPA and validation
    ensure. Workers in one process have no graphs: torchtitan keeps one set of graphs for a process, and the first
    trainer that ends would end the graphs of all others. torchtitan has none for pipelines.
    """
    own_process = config.worker_processes == config.workers
    return (
        not config.training.disable_cuda_graphs
        and device_type() == "cuda"
        and own_process
        and config.parallelism.pipeline_parallel_degree == 1
        and masks_can_be_replayed()
    )


def loss_config(*, vocabulary: int, seq_len: int) -> BaseLoss.Config:
    """Returns the cross-entropy, in chunks of a sequence if the vocabulary is large. The logits of a whole batch and
    their gradients would then take more memory than the other activations. With torch 2.11 there are no chunks."""
    chunks = math.gcd(CHUNKS, seq_len)
    if vocabulary < LARGE_VOCABULARY or chunks == 1 or not loss_may_call_the_head():
        return CrossEntropyLoss.Config()
    return ChunkedLossWrapper.Config(num_chunks=chunks, loss_fn=CrossEntropyLoss.Config())


def _dataloader(config: ResolvedConfig, data: TrainingData) -> MixtureLoader.Config:
    worker, workers = config.fault_tolerance.replica_id, config.workers
    share: dict[str, Any] = {"worker": worker, "workers": workers, "seed": config.run.seed}
    share["predict_bos"] = config.data.predict_bos
    if data.prepared:
        folders = tuple(str(prepared.folder) for prepared in data.prepared)
        return PackedDataLoader.Config(folders=folders, weights=data.weights, **share)
    tokenizer = str(data.tokenizer_folder)
    return StreamingDataLoader.Config(data=config.data, tokenizer_folder=tokenizer, weights=data.weights, **share)
