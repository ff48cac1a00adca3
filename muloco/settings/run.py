"""What a run is called, where it writes, and what it logs and saves."""

from dataclasses import dataclass

from muloco.settings.bounds import Amount, Count, Name, Seed, Text
from muloco.settings.section import Section


@dataclass(kw_only=True, slots=True)
class Run(Section):
    name: Name | None = None
    """Folder of the run below `outputs`. Derived: name of the config file and the time."""
    outputs: Text = "outputs"
    """Folder that holds all run folders."""
    seed: Seed = 42
    """Seed of the initialization and of the order of the data."""


@dataclass(kw_only=True, slots=True)
class Metrics(Section):
    log_freq: Count = 10
    """Inner steps between two lines of metrics."""
    tensorboard: bool = True
    """Write TensorBoard events below the run folder."""
    wandb: bool = False
    """Report to Weights & Biases (`pip install wandb`; project by WANDB_PROJECT, mode by WANDB_MODE)."""


@dataclass(kw_only=True, slots=True)
class Checkpoint(Section):
    enable: bool = True
    """Write checkpoints."""
    interval: Count = 500
    """Inner steps between two checkpoints; besides, one after the last step."""
    keep: Amount = 2
    """How many of the newest checkpoints stay; 0: all."""
    asynchronous: bool = True
    """Write them while the training goes on, from a copy of the state in host memory. False: training waits."""
    initial: Text | None = None
    """Folder with the weights to start from at step 0, written by `muloco export --format hf`. None: drawn."""
