"""The context that a worker gives to its torchtitan components.

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
    """The parts of a worker that its components use. Without any of them, the worker trains without outer steps, as a
    single rank."""

    outer: OuterLoop | None = None
    """Outer loop of the worker. None: plain training, in which the model itself is the anchor."""
    averaging: Averaging | None = None
    """The points of GPA, whose average is the model that is validated and used. None: training without GPA."""
    evaluation: Evaluation | None = None
    """Evaluates the model on tasks; None: no evaluation."""
    ranks: ProcessGroup | None = None
    """Group of the worker's ranks; None for a single rank."""
