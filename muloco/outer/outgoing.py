"""A worker's pseudogradient on its way to the others."""

from functools import cached_property

import torch

from muloco.outer.fragment import FragmentState


class Outgoing:
    """The pseudogradient of a fragment as it is now, for one sync.

    While inner steps stand still, it can be formed again at any time. So the mean may be written over it, and one
    vector is enough. Where inner steps go on, it is kept, as a round that fails has to be tried again from it.

    Args:
        fragment: its parameters, anchor and layout.
        inner_steps_go_on: whether the parameters move before the mean is applied.
    """

    def __init__(self, fragment: FragmentState, *, inner_steps_go_on: bool):
        self.overwrite = not inner_steps_go_on
        """Whether a round may write the mean over the vector."""
        self._fragment = fragment
        self._vector: torch.Tensor | None = fragment.pseudogradient()
        """None: it has been given away."""

    def vector(self) -> torch.Tensor:
        """The fp32 vector. With `overwrite` it is given away, and formed again when it is needed once more."""
        vector = self._current()
        if self.overwrite:
            self._vector = None
        return vector

    @cached_property
    def finite(self) -> bool:
        """Whether it holds neither NaN nor Inf; in one pass, where `torch.isfinite` on all of it takes several."""
        vector = self._current()
        return vector.numel() == 0 or bool(torch.isfinite(torch.stack(vector.aminmax())).all())

    @cached_property
    def square(self) -> float:
        """This rank's share of the sum of squares, see `FragmentState.product`."""
        vector = self._current()
        return self._fragment.product(vector, vector)

    def product(self, mean: torch.Tensor) -> float:
        """This rank's share of the inner product with the mean."""
        return self._fragment.product(self._vector, mean)

    def not_finite(self) -> list[str]:
        """The names of the parameters in which it holds NaN or Inf."""
        views = self._fragment.views(self._current())
        return [name for name, part in views.items() if not torch.isfinite(part).all()]

    def _current(self) -> torch.Tensor:
        return self._fragment.pseudogradient() if self._vector is None else self._vector
