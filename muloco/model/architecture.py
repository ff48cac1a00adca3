"""The record that describes an architecture and its flavors, and the register of all architectures. Needs nothing but
Python.

docs/extending.md describes how to add one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from re import search
from typing import TYPE_CHECKING, Any, Literal

from muloco.errors import UserError
from muloco.optim.choices import ALGORITHMS
from muloco.outer.loop.fragments import module_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from muloco._torchtitan import ModelSpec
    from muloco.model.weights_folder import WeightsFolder

ROLES = tuple(ALGORITHMS)
"""Roles of parameters: Muon steps matrices and routers, and the others go to AdamW by default."""
NO_SCORES = "the layers of flavor {flavor} have windows of different sizes, so it cannot be evaluated on tasks"
"""Message of the error if a flavor without `one_mask` is to be evaluated."""
NO_PLACE = (
    "the Hugging Face form of flavor {flavor} has no place for {name}, a buffer that training changes; choose "
    "--format torch"
)
"""Message of the error if an export would lose a buffer."""
TABLES = ("embedding", "head")
"""Roles whose parameters have a row for each entry of the vocabulary."""

BufferRule = Literal["mean", "local"]
"""Rule for a buffer that training changes. `mean`: at a sync of the modules around it, it becomes the mean
of the workers; it is part of the anchor. `local`: each worker keeps its own."""
MIXTURE_OF_EXPERTS: Mapping[str, BufferRule] = {
    r"\.expert_bias_E$": "mean",
    r"\.tokens_per_expert_E$": "local",
}
"""Rules for the buffers of torchtitan's mixtures of experts: the biases of routers, which load balancing moves before
each step of the optimizer, and the numbers of tokens that each expert has got since the last one, which it resets."""


@dataclass(frozen=True, kw_only=True)
class Flavor(ABC):
    """One size of an architecture. A subclass adds the dimensions that its architecture has.

    Where a property needs torch to find its value, it imports torch itself.
    """

    architecture: str
    """Name of its architecture."""
    alias: str
    vocabulary: int
    """Entries of the vocabulary."""
    muon_decay: float = 0.01
    """Weight decay of Muon at 512 sequences a step; for the paper's sizes, the best that it found (arXiv
    2505.23725)."""
    adamw_decay: float = 0.01
    """Weight decay of AdamW at 512 sequences a step."""
    paper_steps: int | None = None
    """Steps of 512 sequences of 2048 tokens in the tables of the paper's code."""

    @property
    def name(self) -> str:
        """The full name, which run folders keep."""
        return f"{self.architecture}-{self.alias}"

    @property
    @abstractmethod
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every parameter by name, in the order of the model's modules."""

    @property
    def fused(self) -> Mapping[str, tuple[int, ...]]:
        """The rows of each matrix in a fused projection (`muloco.optim.fused`), by a regular expression for the names
        of such parameters. Most flavors have none."""
        return {}

    @property
    @abstractmethod
    def divided(self) -> Mapping[str, int]:
        """The quantities that tensor parallelism divides among its ranks: what they are, in words, and their
        numbers."""

    @property
    def record(self) -> "Architecture":
        return architecture(self.architecture)

    @property
    def roles(self) -> Mapping[str, str]:
        """A regular expression for the names of the parameters of each of the `ROLES` that the flavor has. The first
        one that matches a name decides."""
        return self.record.roles

    @property
    def undivided(self) -> str | None:
        """The reason why tensor parallelism cannot divide it; None: it can."""
        return None

    @property
    def is_tied(self) -> bool:
        """Whether its head is its embedding, which a pipeline has in another stage."""
        return "head" not in self.roles

    @property
    def one_mask(self) -> bool:
        """Whether all its layers take the same attention mask. Where some have a window, texts cannot be scored
        together, as lm-eval's tasks are here."""
        return True

    @property
    def longest(self) -> int | None:
        """Length of the longest sequence that the flavor takes, in tokens; None: any length."""
        return None

    def role(self, name: str) -> str:
        """Returns the role of a parameter. Raises KeyError if no pattern matches its name."""
        for role, pattern in self.roles.items():
            if search(pattern, name):
                return role
        raise KeyError(f"flavor {self.alias}: {name} has no role")

    @property
    def modules(self) -> list[str]:
        """Names of the modules that fragments consist of, in order."""
        return list(dict.fromkeys(map(module_of, self.shapes)))

    @property
    def matrices(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter whose role is `matrix`, by name."""
        return {name: shape for name, shape in self.shapes.items() if self.role(name) == "matrix"}

    @property
    def tables(self) -> frozenset[str]:
        """Names of the parameters with a row for each entry of the vocabulary."""
        return frozenset(name for name in self.shapes if self.role(name) in TABLES)

    @cached_property
    def parameters(self) -> int:
        """Number of all parameters."""
        return sum(map(math.prod, self.shapes.values()))

    @cached_property
    def parameters_by_role(self) -> Mapping[str, int]:
        """Number of the parameters of each role that the architecture has."""
        numbers = dict.fromkeys(self.roles, 0)
        for name, shape in self.shapes.items():
            numbers[self.role(name)] += math.prod(shape)
        return numbers

    @property
    def active_parameters(self) -> int:
        """Number of the parameters that compute with a token: all, but for experts that are not chosen for it."""
        return self.parameters

    @property
    def flops_per_token(self) -> int:
        """FLOPs of a token in training: 6 for each parameter that computes with it."""
        return 6 * self.active_parameters

    @property
    def token_budget(self) -> int:
        """Tokens to train on: the paper's where its tables have this size, else 20 for each parameter that computes
        with a token."""
        return self.paper_steps * 512 * 2048 if self.paper_steps else 20 * self.active_parameters


@dataclass(frozen=True, kw_only=True)
class HuggingFaceForm(ABC):
    """The form of an architecture's models in transformers."""

    config: Callable[..., dict[str, Any]]
    """Returns config.json, given the flavor and by keyword `seq_len`, the longest sequence in training in tokens, and
    `bos_id` and `eos_id` of the tokenizer."""
    description: str
    """A noun phrase for the model card, such as `A Llama with grouped-query attention`."""
    loading: str
    """The end of the sentence `transformers loads it as ...` on the model card, without the full stop."""
    notes: str = ""
    """Markdown for the end of the model card."""
    decisive: tuple[str, ...] = ()
    """Settings of config.json that decide what a model computes, beside the shapes of its tensors. A run does not start
    from a folder whose values are others."""

    @abstractmethod
    def shapes(self, flavor: Any) -> Mapping[str, tuple[int, ...]]:
        """Returns the shape of every tensor in transformers, by its name there, in the order of writing."""

    @abstractmethod
    def written(self, weights: Mapping[str, "Tensor"], flavor: Any) -> Iterator[tuple[str, "Tensor"]]:
        """Yields the name and value of every tensor in transformers, given all weights of a flavor by name, whole and
        plain, in any dtype. They are not changed, but results may share their storage. Raises UserError if one of the
        weights has no place there."""

    @abstractmethod
    def load(self, folder: "WeightsFolder", parts: Iterable["nn.Module"], flavor: Any) -> None:
        """Writes the tensors in a folder, which has those of `shapes`, into a model, sharded in any way. Buffers that
        the form does not have keep their values."""


@dataclass(frozen=True, kw_only=True)
class OneToOne(HuggingFaceForm):
    """A form in which each parameter corresponds to one in transformers, of the same shape."""

    names: Callable[[Any], dict[str, str]]
    """Returns the name in transformers of every parameter of a flavor, and of every averaged buffer that has one there,
    by its name here, in the order of the layers here."""
    write: Callable[[str, "Tensor", Any], "Tensor"]
    """Returns a parameter as transformers stores it, given its name here, the tensor (whole and plain, any dtype) and
    the flavor. The tensor is not changed, but the result may share its storage. Raises KeyError if there is no such
    parameter."""
    read: Callable[[str, "Tensor", Any], "Tensor"]
    """The inverse of `write`, up to rounding, given the same name."""

    def shapes(self, flavor: Any) -> Mapping[str, tuple[int, ...]]:
        return {theirs: flavor.shapes[ours] for ours, theirs in self.names(flavor).items()}

    def written(self, weights: Mapping[str, "Tensor"], flavor: Any) -> Iterator[tuple[str, "Tensor"]]:
        names = self.names(flavor)
        if lost := weights.keys() - names.keys():
            raise UserError(NO_PLACE.format(flavor=flavor.alias, name=min(lost)))
        for ours, theirs in names.items():
            yield theirs, self.write(ours, weights[ours], flavor)

    def load(self, folder: "WeightsFolder", parts: Iterable["nn.Module"], flavor: Any) -> None:
        import torch

        from muloco import sharding
        from muloco.model.buffers import averaged_buffers

        theirs = self.names(flavor)
        with torch.no_grad():
            for part in parts:
                buffers = {name: of for name, of in averaged_buffers([part], flavor.record).items() if name in theirs}
                for name, target in {**dict(part.named_parameters()), **buffers}.items():
                    tensor = self.read(name, folder.read(theirs[name]).float(), flavor)
                    own = sharding.local(target)
                    own.copy_(sharding.shard_like(tensor.to(own.device), target))


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A family of models that share their code."""

    name: str
    flavors: tuple[Flavor, ...]
    """Flavors, from small to large."""
    spec: Callable[..., "ModelSpec"]
    """Makes torchtitan's specification of a flavor, with the arguments of `muloco.model.spec`."""
    roles: Mapping[str, str]
    """Default of `Flavor.roles`."""
    huggingface: HuggingFaceForm | None = None
    """Form of the models in transformers. None: they are neither exported to a Hugging Face folder nor started from
    one."""
    buffers: Mapping[str, BufferRule] = field(default_factory=lambda: MIXTURE_OF_EXPERTS)
    """A rule by regular expression for the names of the buffers that training changes. The first one that matches a
    name decides; a buffer that none matches is a constant. The default has the buffers of all of torchtitan's text
    models."""

    def buffer_rule(self, name: str) -> BufferRule | None:
        """Returns the rule for a buffer; None: training does not change it."""
        return next((rule for pattern, rule in self.buffers.items() if search(pattern, name)), None)


_ARCHITECTURES: dict[str, Architecture] = {}


def register(new: Architecture) -> Architecture:
    """Makes an architecture and its flavors known, and returns it. Raises ValueError if its name, or a name or alias of
    a flavor, is taken, or a flavor names another architecture."""
    if new.name in _ARCHITECTURES:
        raise ValueError(f"there is an architecture {new.name} already")
    taken = {name for known in all_architectures() for flavor in known.flavors for name in (flavor.alias, flavor.name)}
    for flavor in new.flavors:
        if flavor.architecture != new.name:
            raise ValueError(f"flavor {flavor.alias} of {new.name} names the architecture {flavor.architecture}")
        names = {flavor.alias, flavor.name}
        if names & taken:
            raise ValueError(f"architecture {new.name}: there is a flavor {min(names & taken)} already")
        taken |= names
    _ARCHITECTURES[new.name] = new
    return new


def all_architectures() -> list[Architecture]:
    """Returns all registered architectures, in the order of their registration."""
    return list(_ARCHITECTURES.values())


def architecture(name: str) -> Architecture:
    """Returns the architecture with this name. Raises ValueError if there is none."""
    if name not in _ARCHITECTURES:
        raise ValueError(f"there is no architecture {name!r}; there are {', '.join(_ARCHITECTURES)}")
    return _ARCHITECTURES[name]
