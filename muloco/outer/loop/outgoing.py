"""The vector that a worker sends in a sync."""

from functools import cached_property

import torch

from muloco.outer.loop.fragment import FragmentState


class Outgoing:
    """The pseudogradient and the buffers of a fragment at its creation, for one sync.

    While no inner steps run, the vector can be computed again, so the mean may overwrite it and one vector is
    enough. While inner steps run, the vector is kept, since a failed round has to be repeated with it.

    Args:
        fragment: the parameters, buffers, anchor and layout of the fragment.
        inner_steps_go_on: whether the parameters change before the mean is applied.
    """

    def __init__(self, fragment: FragmentState, *, inner_steps_go_on: bool):
        self.overwrite = not inner_steps_go_on
        """Whether a round may write the mean over the vector."""
        self._fragment = fragment
        self._vector: torch.Tensor | None = fragment.outgoing()
        """None if `vector` has returned it with `overwrite`."""

    def vector(self) -> torch.Tensor:
        """Returns the fp32 vector. With `overwrite` the caller may change it, and it is computed again when it is
        needed."""
        vector = self._current()
        if self.overwrite:
            self._vector = None
        return vector

    def hold(self) -> None:
        """Computes the vector once more if `vector` has returned it with `overwrite`."""
        self._vector = self._current()

    @cached_property
    def finite(self) -> bool:
        """Whether the vector holds neither NaN nor Inf. This takes one pass, where `torch.isfinite` takes several."""
        vector = self._current()
        return vector.numel() == 0 or bool(torch.isfinite(torch.stack(vector.aminmax())).all())

    @cached_property
    def square(self) -> float:
        """Returns this rank's part of the sum of squares, see `FragmentState.product`."""
        vector = self._current()
        return self._fragment.product(vector, vector)

    def product(self, mean: torch.Tensor) -> float:
        """Returns this rank's part of the inner product with the mean, see `FragmentState.product`."""
        return self._fragment.product(self._vector, mean)

    def not_finite(self) -> list[str]:
        """Returns the names of the parameters whose pseudogradient holds NaN or Inf, and of the buffers that do."""
        views = self._fragment.views(self._current())
        return [name for name, part in views.items() if not torch.isfinite(part).all()]

    def _current(self) -> torch.Tensor:
        return self._fragment.outgoing() if self._vector is None else self._vector
