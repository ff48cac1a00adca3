"""GPA in training: the three points of a worker's parameters, by name."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import torch

from muloco.optim import GPA


class Averaging:
    """y, at which gradients are taken and which the parameters hold; z, which workers average; x, which is evaluated.

    Args:
        optimizer: of all the parameters.
        parameters: a worker's, by name.
    """

    def __init__(self, optimizer: GPA, parameters: Mapping[str, torch.nn.Parameter]):
        self._optimizer = optimizer
        self._parameters = dict(parameters)

    def z(self) -> dict[str, torch.Tensor]:
        """Returns z by parameter name; the tensors stay the same. Write into them only within `moving_z`."""
        return {name: self._optimizer.z(param) for name, param in self._parameters.items()}

    def x(self) -> dict[str, torch.Tensor]:
        """Returns copies of x by parameter name."""
        with self.average_weights():
            return {name: param.detach().clone() for name, param in self._parameters.items()}

    def average_weights(self) -> AbstractContextManager[None]:
        """Within the context the parameters hold x."""
        return self._optimizer.average_weights()

    def moving_z(self, names: Iterable[str]) -> AbstractContextManager[None]:
        """Within the context the z of these parameters may be written; their x stays, and y follows."""
        return self._optimizer.moving_z(self._parameters[name] for name in names)
