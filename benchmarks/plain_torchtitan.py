"""The same training by torchtitan's own Trainer, to hold ours against: its optimizer, metrics, checkpointing (off).

    python benchmarks/plain_torchtitan.py CONFIG [--section.field value ...]

What it shares with a run of ours is what both are to work on: the model, the corpus and its loader, the batch, the
schedule; and what makes either of them faster or smaller: precision, torch.compile, CUDA graphs (torchtitan's default
on a GPU), activation checkpointing, a chunked loss, the settings of the allocator. The optimizer is torchtitan's own
AdamW. The speed of every step is on its console; a step's time ends when the host has its loss and gradient norm.
"""

import math
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from muloco._torchtitan import (
    CommConfig,
    CompileConfig,
    DebugConfig,
    HuggingFaceTokenizer,
    LRSchedulersContainer,
    MetricsProcessor,
    ParallelismConfig,
    Trainer,
    TrainingConfig,
)

# torchtitan's own, which the package has no use for; imported behind its gate, which prepares torchtitan for the CPU
from torchtitan.components.optimizer import default_adamw  # isort: skip
from torchtitan.tools.logging import init_logger  # isort: skip

from muloco.data.loader import PackedDataLoader
from muloco.launch.placement.spec import allocator_settings
from muloco.model import spec
from muloco.model.flavors import flavor
from muloco.resolve import resolve
from muloco.settings.config import Config
from muloco.settings.load import load_config
from muloco.training.data import prepare_data
from muloco.training.titan_config import ACTIVATION_CHECKPOINTS, loss_config, records_cuda_graphs


def trainer_config(config: Config, folder: Path) -> Trainer.Config:
    """torchtitan's config for a resolved one of ours."""
    data = prepare_data(config)
    training, optimizer = config.training, config.optimizer
    return Trainer.Config(
        model_spec=spec(config.model.flavor, seq_len=training.seq_len, autocast=training.precision == "autocast"),
        hf_assets_path=str(data.tokenizer_folder),
        dump_folder=str(folder),
        tokenizer=HuggingFaceTokenizer.Config(),
        metrics=MetricsProcessor.Config(
            log_freq=1, enable_tensorboard=False, enable_wandb=False, disable_color_printing=True
        ),
        dataloader=PackedDataLoader.Config(
            folders=tuple(str(prepared.folder) for prepared in data.prepared),
            weights=data.weights,
            worker=0,
            workers=1,
            seed=config.run.seed,
        ),
        optimizer=default_adamw(
            lr=optimizer.lr,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        ),
        lr_scheduler=LRSchedulersContainer.Config(**asdict(config.lr_scheduler)),
        training=TrainingConfig(
            local_batch_size=training.local_batch_size,
            global_batch_size=training.global_batch_size,
            seq_len=training.seq_len,
            max_norm=math.inf if training.max_norm is None else training.max_norm,
            steps=training.steps,
            mixed_precision_param="bfloat16" if training.precision == "bfloat16" else "float32",
            disable_cuda_graphs=not records_cuda_graphs(config),
        ),
        parallelism=ParallelismConfig(spmd_backend="partial_dtensor"),
        activation_checkpoint=ACTIVATION_CHECKPOINTS[config.activation_checkpoint.mode],
        compile=CompileConfig(enable=config.compile.enable),
        comm=CommConfig(trace_buf_size=0),
        debug=DebugConfig(seed=config.run.seed, enable_structured_logging=False),
        loss=loss_config(vocabulary=flavor(config.model.flavor).vocabulary, seq_len=training.seq_len),
    )


def main() -> None:
    import torch

    init_logger()
    config = resolve(load_config(sys.argv[1], sys.argv[2:]))
    if torch.cuda.is_available():
        os.environ.update(allocator_settings(os.environ))
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.environ.update(
        RANK="0",
        LOCAL_RANK="0",
        WORLD_SIZE="1",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(store.port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT="0",
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_config(config, Path(folder)).build()
        try:
            trainer.train()
        finally:
            trainer.close()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
