"""What torchtitan's components of a worker need of the worker.

torchtitan's Trainer builds its checkpoint manager and its validator in its constructor, before there can be an outer
loop, which needs model, optimizer and data. So the trainer gives them a `WorkerContext` as soon as all is built, and
nothing else is set later.
"""

from dataclasses import dataclass

from torch.distributed import ProcessGroup

from muloco.outer import OuterLoop
from muloco.training.averaging import Averaging
from muloco.training.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """A worker without any of these is one that trains without outer steps, as a single rank."""

    outer: OuterLoop | None = None
    """None: plain training; there is no anchor but the model itself."""
    averaging: Averaging | None = None
    """Not None: training with GPA, whose average is the model that is validated and used."""
    evaluation: Evaluation | None = None
    """Evaluates the model on tasks; None: no evaluation."""
    ranks: ProcessGroup | None = None
    """Group of the worker's ranks; None for a single rank."""
