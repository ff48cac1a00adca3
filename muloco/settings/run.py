"""The name and the folder of a run, and what it logs and saves."""

import importlib.util
from dataclasses import dataclass

from muloco.errors import UserError
from muloco.settings.annotations import Amount, Count, MayChange, Name, Seed, Text
from muloco.settings.section import Section


@dataclass(kw_only=True, slots=True)
class Run(Section):
    name: MayChange[Name | None] = None
    """Name of the run, and of its folder in `run.outputs`. Derived: the name of the config file and the time."""
    outputs: MayChange[Text] = "outputs"
    """Folder that holds all run folders."""
    seed: Seed = 42
    """Seed of the initialization and of the order of the data."""


@dataclass(kw_only=True, slots=True)
class Metrics(Section):
    log_freq: Count = 10
    """Inner steps between two lines of metrics."""
    tensorboard: bool = True
    """Write TensorBoard events into the run folder."""
    wandb: bool = False
    """Report to Weights & Biases (`pip install wandb`). WANDB_PROJECT sets the project and WANDB_MODE the mode."""

    def check(self) -> None:
        """Raises UserError if a package is missing."""
        if self.wandb and importlib.util.find_spec("wandb") is None:
            raise UserError("metrics.wandb needs the package wandb: pip install wandb")


@dataclass(kw_only=True, slots=True)
class Checkpoint(Section):
    enable: bool = True
    """Write checkpoints."""
    interval: MayChange[Count] = 500
    """Inner steps between two checkpoints. Another one is written after the last step."""
    keep: MayChange[Amount] = 2
    """Number of newest checkpoints to keep; 0: all."""
    asynchronous: MayChange[bool] = True
    """Write checkpoints while training goes on, from a copy of the state in host memory. False: training waits."""
    initial: Text | None = None
    """Folder of transformers with the weights to start from at step 0: written by `muloco export`, or from the hub
    (docs/models.md). None: random weights."""


@dataclass(kw_only=True, slots=True)
class ResolvedRun(Run):
    name: Name
