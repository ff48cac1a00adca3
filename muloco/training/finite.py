"""Watches the gradients for NaN and Inf without making the host wait for the device at every step."""

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import nn

from muloco.errors import RunFailed
from muloco.sharding import local

NEVER = torch.iinfo(torch.int32).max
SHOWN = 3  # parameters that a message names


class NonFiniteGradient(RunFailed):
    """A parameter's gradient holds NaN or Inf."""


class GradientWatch:
    """Remembers, on the device, the first step at which the gradient of each parameter was not finite.

    To be shown every step's gradients before they are clipped, which spreads a NaN to all parameters, and to be asked
    where the host waits anyway. It remembers the first step because every later one is ruined by it.

    Args:
        parameters: by name, in the order of the forward pass, on one device; DTensors stand for this rank's part. The
            ranks of a process group, if there is one, are asked together; stages of a pipeline have different ones.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        # backward, where a NaN goes on from layer to layer: the first is next to it
        self._names, self._parameters = list(parameters)[::-1], list(parameters.values())[::-1]
        device = local(self._parameters[0]).device
        self._first = torch.full((len(self._names),), NEVER, dtype=torch.int32, device=device)
        self._zero = torch.zeros((), device=device)

    @torch.no_grad()
    def observe(self, step: int) -> None:
        """Looks at the gradients as they are now; nothing is read on the host.

        The largest element of each is what is tested, since a sum of finite elements may well overflow.
        """
        gradients = [None if p.grad is None else local(p.grad) for p in self._parameters]
        present = [gradient for gradient in gradients if gradient is not None and gradient.numel()]
        if not present:
            return
        largest = iter(torch._foreach_norm(present, math.inf))
        norms = [self._zero if g is None or not g.numel() else next(largest).float() for g in gradients]
        self._first.masked_fill_(~torch.isfinite(torch.stack(norms)) & (self._first > step), step)

    def check(self, step: int) -> None:
        """Reads what `observe` has found. Collective over all ranks of the default process group, if there is one.

        Raises:
            NonFiniteGradient: on every rank, with the first step that had a bad gradient and the parameters it was in.
        """
        several = dist.is_initialized() and dist.get_world_size() > 1
        least = self._first.min()
        if several:
            dist.all_reduce(least, dist.ReduceOp.MIN)
        earliest = int(least)
        if earliest == NEVER:
            return
        bad = [name for name, first in zip(self._names, self._first.tolist(), strict=True) if first == earliest]
        if several:
            given: list[list[str]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(given, bad)
            place = {name: index for index, name in enumerate(self._names)}
            later_stages_first = dict.fromkeys(name for names in reversed(given) for name in names)
            bad = sorted(later_stages_first, key=lambda name: place.get(name, -1))
        more = f" (and {len(bad) - SHOWN} more)" if len(bad) > SHOWN else ""
        seen = f", seen at step {step}" if step > earliest else ""
        raise NonFiniteGradient(
            f"NaN or Inf in the gradient of {', '.join(bad[:SHOWN])}{more} at inner step {earliest}{seen}"
        )
