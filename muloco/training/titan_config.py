"""From a resolved config to torchtitan's: the one place where our names meet theirs."""

import math
from dataclasses import asdict

from muloco._torchtitan import (
    CommConfig,
    CompileConfig,
    CrossEntropyLoss,
    DebugConfig,
    HuggingFaceTokenizer,
    LRSchedulersContainer,
    ParallelismConfig,
    TrainingConfig,
)
from muloco.data.held_out import HeldOutDataLoader
from muloco.data.loader import PackedDataLoader
from muloco.data.prepared import Prepared
from muloco.model.llama import model_spec
from muloco.training.checkpoint import RunCheckpoint
from muloco.training.config import Config
from muloco.training.metrics import RunMetrics
from muloco.training.optimizers import inner_optimizers
from muloco.training.run_folder import RunFolder
from muloco.training.trainer import MulocoTrainer
from muloco.training.validation import AnchorValidator


def trainer_config(config: Config, folder: RunFolder, data: Prepared, *, attempt: int) -> MulocoTrainer.Config:
    """What one worker's trainer is built from.

    Args:
        config: resolved; `fault_tolerance.replica_id` says which worker this is.
        folder: of the run.
        data: the prepared corpus.
        attempt: how many times the run has been started, this one included.
    """
    training, parallelism = config.training, config.parallelism
    worker, ranks = config.fault_tolerance.replica_id, config.ranks_per_worker
    assert training.steps is not None
    return MulocoTrainer.Config(
        muloco=config,
        model_spec=model_spec(config.model.flavor, seq_len=training.seq_len),
        hf_assets_path=str(data.tokenizer_folder),
        dump_folder=str(folder.root),
        tokenizer=HuggingFaceTokenizer.Config(),
        metrics=RunMetrics.Config(
            worker=worker,
            attempt=attempt,
            log_freq=config.metrics.log_freq,
            enable_tensorboard=config.metrics.tensorboard,
            enable_wandb=config.metrics.wandb,
            disable_color_printing=True,
        ),
        dataloader=PackedDataLoader.Config(
            folder=str(data.folder), split="train", worker=worker, workers=config.workers, seed=config.run.seed
        ),
        optimizer=inner_optimizers(config.optimizer),
        lr_scheduler=LRSchedulersContainer.Config(decay_type="cosine", **asdict(config.lr_scheduler)),
        training=TrainingConfig(
            local_batch_size=training.local_batch_size,
            global_batch_size=training.global_batch_size // config.workers,
            seq_len=training.seq_len,
            max_norm=math.inf if training.max_norm is None else training.max_norm,
            steps=training.steps,
            mixed_precision_param=training.precision,
            disable_cuda_graphs=True,
        ),
        parallelism=ParallelismConfig(
            data_parallel_replicate_degree=parallelism.data_parallel_replicate_degree,
            data_parallel_shard_degree=parallelism.data_parallel_shard_degree,
            spmd_backend="partial_dtensor",  # torchtitan's default needs a newer torch than 2.13
        ),
        checkpoint=RunCheckpoint.Config(
            enable=config.checkpoint.enable,
            interval=config.checkpoint.interval,
            keep_latest_k=config.checkpoint.keep,
            initial_load_model_only=False,
            worker=worker,
            workers=config.workers,
        ),
        activation_checkpoint=None,
        compile=CompileConfig(enable=config.compile.enable),
        comm=CommConfig(trace_buf_size=0, train_timeout_seconds=int(config.fault_tolerance.exchange_timeout_seconds)),
        validator=AnchorValidator.Config(
            enable=True,
            freq=config.validation.freq,
            last_step=training.steps,
            steps=config.validation.sequences // (training.local_batch_size * ranks),
            dataloader=HeldOutDataLoader.Config(folder=str(data.folder), sequences=config.validation.sequences),
        ),
        debug=DebugConfig(seed=config.run.seed, enable_structured_logging=False),
        loss=CrossEntropyLoss.Config(),
    )
