"""GPA in training: the three points of a worker's parameters, by name, whichever optimizers step them."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch

from muloco.optim import GPA


class Averaging:
    """y, at which gradients are taken and which the parameters hold; z, which workers average; x, which is evaluated.

    Args:
        optimizers: of all the parameters.
        parameters: a worker's, by name.
    """

    def __init__(self, optimizers: Iterable[GPA], parameters: Mapping[str, torch.nn.Parameter]):
        self._parameters = dict(parameters)
        self._owner = {
            param: optimizer
            for optimizer in optimizers
            for group in optimizer.param_groups
            for param in group["params"]
        }

    def z(self) -> dict[str, torch.Tensor]:
        """By parameter name; the tensors stay the same. To be written within `moving_z`."""
        return {name: self._owner[param].z(param) for name, param in self._parameters.items()}

    def x(self) -> dict[str, torch.Tensor]:
        """Copies, by parameter name."""
        with self.average_weights():
            return {name: param.detach().clone() for name, param in self._parameters.items()}

    @contextlib.contextmanager
    def average_weights(self) -> Iterator[None]:
        """Within the context the parameters hold x."""
        with contextlib.ExitStack() as stack:
            for optimizer in set(self._owner.values()):
                stack.enter_context(optimizer.average_weights())
            yield

    @contextlib.contextmanager
    def moving_z(self, names: Iterable[str]) -> Iterator[None]:
        """Within the context the z of these parameters may be written; their x stays, and y follows."""
        params = [self._parameters[name] for name in names]
        with contextlib.ExitStack() as stack:
            for optimizer in set(self._owner.values()):
                stack.enter_context(optimizer.moving_z(params))
            yield
