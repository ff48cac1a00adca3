"""The flavors of models of torchtitan. Their numbers are given; all else is found from the model when it is asked for,
which imports torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from muloco.model.architecture import Flavor

if TYPE_CHECKING:
    from muloco._torchtitan import ModelSpec
    from muloco.model.architectures.titan.structure import Structure


class Numbers(NamedTuple):
    """The numbers of a flavor that need no torch."""

    vocabulary: int
    longest: int
    """Tokens of the longest sequence."""
    parameters: int
    active: int
    """Parameters that compute with a token."""
    divisible: bool = True
    """Whether tensor parallelism can divide it."""
    tied: bool = False
    """Whether its head is its embedding."""


@dataclass(frozen=True, kw_only=True)
class TitanFlavor(Flavor):
    """A size of a model of torchtitan, such as `qwen3/0.6B`."""

    numbers: Numbers
    theirs: Callable[[], "ModelSpec"]
    """Makes torchtitan's specification, a new one with every call."""

    @property
    def name(self) -> str:
        return self.alias

    @property
    def parameters(self) -> int:  # type: ignore[override]
        return self.numbers.parameters

    @property
    def active_parameters(self) -> int:
        return self.numbers.active

    @property
    def is_tied(self) -> bool:
        return self.numbers.tied

    @property
    def one_mask(self) -> bool:
        return self._structure.one_mask

    @property
    def longest(self) -> int:
        return self.numbers.longest

    @property
    def undivided(self) -> str | None:
        # torchtitan 0.3.0 divides such biases by the degree, and so their gradients, which it does not add up again
        return None if self.numbers.divisible else "has biases whose gradients torchtitan divides wrongly"

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._structure.shapes

    @property
    def roles(self) -> Mapping[str, str]:
        return self._structure.roles

    @property
    def fused(self) -> Mapping[str, tuple[int, ...]]:
        return self._structure.fused

    @property
    def divided(self) -> Mapping[str, int]:
        return {f"{what} of flavor {self.alias}": number for what, number in self._structure.divided.items()}

    @cached_property
    def _structure(self) -> "Structure":
        from muloco.model.architectures.titan.structure import structure_of

        return structure_of(self.theirs())
