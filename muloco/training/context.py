"""The parts of a worker that its torchtitan components share, and the context that hands them over.

torchtitan's Trainer builds its checkpoint manager and its validator in its constructor, before there can be an outer
loop, which needs model, optimizer and data. So the trainer gives them a `WorkerContext` as soon as all is built, and
nothing else is set later.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup

from muloco.optim import GPA
from muloco.outer import OuterLoop
from muloco.training.evaluation import Evaluation

Value = TypeVar("Value")


@dataclass(frozen=True)
class Averaging:
    """y, at which gradients are taken and which the parameters hold; z, which workers average; x, which is used."""

    optimizer: GPA
    """Optimizer of all the parameters."""
    parameters: Mapping[str, torch.nn.Parameter]
    """Parameters of a worker, by name."""

    def z(self) -> dict[str, torch.Tensor]:
        """Returns z by parameter name; the tensors stay the same. Write into them only within `moving_z`."""
        return {name: self.optimizer.z(param) for name, param in self.parameters.items()}

    def x(self) -> dict[str, torch.Tensor]:
        """Returns copies of x by parameter name."""
        with self.average_weights():
            return {name: param.detach().clone() for name, param in self.parameters.items()}

    def average_weights(self) -> AbstractContextManager[None]:
        """Within the context the parameters hold x."""
        return self.optimizer.average_weights()

    def moving_z(self, names: Iterable[str]) -> AbstractContextManager[None]:
        """Within the context the z of these parameters may be written; their x stays, and y follows."""
        return self.optimizer.moving_z(self.parameters[name] for name in names)


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """The parts of a worker that its components use. The defaults: training without outer steps, as a single rank."""

    outer: OuterLoop | None = None
    """Outer loop of the worker. None: plain training, in which the model itself is the anchor."""
    buffers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Buffers of the model that workers average, by name."""
    averaging: Averaging | None = None
    """The points of GPA, whose average is the model that is validated and used. None: training without GPA."""
    evaluation: Evaluation | None = None
    """Evaluates the model on tasks; None: no evaluation."""
    ranks: ProcessGroup | None = None
    """Group of the worker's ranks; None for a single rank."""


def named_parameters(model_parts: Iterable[nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters of a model by name."""
    return {name: parameter for part in model_parts for name, parameter in part.named_parameters()}


def as_on_first_rank(value: Value, ranks: ProcessGroup | None) -> Value:
    """The value that rank 0 has, on all ranks of a group, which all call this. None: this rank alone."""
    values = [value]
    if ranks is not None:
        dist.broadcast_object_list(values, src=0, group=ranks)
    return values[0]
