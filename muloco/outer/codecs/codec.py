"""The base of all codecs: a frozen dataclass whose fields are its settings. This module needs nothing but Python."""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Method = TypeVar("Method", bound=Callable[..., Any])
REGISTRY: dict[str, type[Codec]] = {}
"""The codecs by kind, in the order in which their modules were imported."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting of a codec, as the section `compression` of a config has it."""

    annotation: Any
    """Type of the setting with its bounds (`muloco.settings.annotations`)."""
    default: Any
    """Default of the codec; None: the codec needs the setting, or does without."""
    help: str
    derived: Any
    """Value that a config of this kind gets if it leaves the setting open. None: there is none."""
    reason: str
    """Why the derived value is that, in words."""

    @property
    def config_default(self) -> Any:
        """Default of the config's field, the same for all kinds."""
        return self.default if self.derived is None else None


def setting(text: str, *, default: Any = dataclasses.MISSING, derived: Any = None, reason: str = "") -> Any:
    """Declares a field of a codec.

    Args:
        text: what it does, in full sentences, for `--help` and the documentation.
        default: default of the codec. Without one, the codec needs the setting.
        derived: value that a config of this kind gets where it leaves the setting open; its field is then None by
            default. None: the default of the codec is that of the field.
        reason: why the derived value is that, in words.
    """
    return dataclasses.field(default=default, metadata={"help": text, "derived": derived, "reason": reason})


def no_grad(method: Method) -> Method:
    """Runs a method without recording gradients, as `torch.no_grad` does, which would have to be imported for it."""

    @functools.wraps(method)
    def without_gradients(*args: Any, **options: Any) -> Any:
        import torch

        with torch.no_grad():
            return method(*args, **options)

    return without_gradients  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Codec(ABC):
    """Turns pieces into bytes and back: one piece, or many pieces of one shape. Many pieces give the same bits as each
    one alone.

    A subclass that names a `kind` is registered: `class Ternary(Codec, kind="ternary", about="...")`.
    """

    kind: ClassVar[str] = ""
    """Value of `compression.kind`."""
    about: ClassVar[str] = ""
    """Describes in a few words what a piece is decoded to."""
    keeps: ClassVar[str] = ""
    """Describes what encoding the mean of several decoded pieces would keep of it, if that is only a small part."""

    def __init_subclass__(cls, kind: str = "", about: str = "", **options: Any):
        super().__init_subclass__(**options)
        if kind:
            cls.kind, cls.about = kind, about
            REGISTRY[kind] = cls

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """The settings of this kind, by name."""
        annotations = get_type_hints(cls, include_extras=True)
        return {
            field.name: Setting(
                annotation=annotations[field.name],
                default=None if field.default is dataclasses.MISSING else field.default,
                **field.metadata,
            )
            for field in dataclasses.fields(cls)
        }

    @classmethod
    def derive(cls, given: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
        """Returns a value, and the reason for it, for each setting that is absent or None in `given`."""
        return {
            name: (setting.derived, setting.reason.format(kind=cls.kind))
            for name, setting in cls.settings().items()
            if given.get(name) is None and setting.derived is not None
        }

    def obstacle(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Returns why the settings make no sense for tensors of these shapes, by name; empty if they do."""
        return ""

    @property
    def size(self) -> str:
        """How much is sent, as a report writes it: `4 bits`, `10 %`. A figure places bits and % by their number."""
        return ""

    @property
    def details(self) -> str:
        """Further words that distinguish it in a report, such as `per row`."""
        return ""

    @abstractmethod
    def payload_bytes(self, shape: Sequence[int]) -> int:
        """Returns the size in bytes of the payload of a piece of that shape. Needs no torch."""

    def state_bytes(self, shape: Sequence[int]) -> int:
        """Returns the bytes that are kept for a piece of that shape from one round to the next. Needs no torch."""
        return 0

    @abstractmethod
    def encode_pieces(self, pieces: Sequence[Tensor]) -> Tensor:
        """Returns the payloads of pieces of one shape: uint8 [pieces, payload_bytes(shape)] on their device, in new
        memory.

        Args:
            pieces: at least one; of any shape, strides and floating dtype; they are read as fp32.
        """

    @abstractmethod
    def decode_pieces(
        self, payloads: Tensor, targets: Sequence[Tensor], *, weight: float = 1.0, add: bool = False
    ) -> None:
        """Overwrites the targets by `weight` x the decoded payloads, computed in fp32, or adds this to them.

        Args:
            payloads: uint8 [pieces, payload_bytes(shape)], on the device of the targets.
            targets: contiguous fp32 tensors of the shape of the pieces, all in one storage, without overlap.
            weight: factor on the decoded values.
            add: whether to add to the targets instead of overwriting them.
        """

    @no_grad
    def encode(self, piece: Tensor) -> Tensor:
        """Returns the payload of one piece, uint8 [payload_bytes(piece.shape)]; see `encode_pieces`."""
        return self.encode_pieces([piece])[0]

    @no_grad
    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Decodes a payload to a new tensor of that shape on the device of the payload; computed in fp32, then cast.

        Args:
            dtype: of the result; None: fp32.

        Raises:
            ValueError: the payload is not uint8 [payload_bytes(shape)].
        """
        import torch

        size = self.payload_bytes(shape)
        if payload.dtype != torch.uint8 or payload.shape != (size,):
            raise ValueError(
                f"the payload of a piece of shape {tuple(shape)} must be uint8 [{size}]; "
                f"got {str(payload.dtype).removeprefix('torch.')} {list(payload.shape)}"
            )
        decoded = torch.empty(tuple(shape), dtype=torch.float32, device=payload.device)
        self.decode_pieces(payload[None], [decoded])
        return decoded if dtype is None else decoded.to(dtype)


@dataclass(frozen=True, kw_only=True)
class StatefulCodec(Codec):
    """A codec that encodes with a state from earlier pieces at the same place. Decoding needs the payload alone."""

    @abstractmethod
    def state_elements(self, shape: Sequence[int]) -> int:
        """Returns how many fp32 numbers are kept for a piece of that shape from one round to the next."""

    def state_bytes(self, shape: Sequence[int]) -> int:
        return 4 * self.state_elements(shape)

    @abstractmethod
    def first_state(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Returns the state before the first round, fp32 [state_elements(shape)]; it follows from the shape alone."""

    @abstractmethod
    def encode_from(self, pieces: Sequence[Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes pieces as `encode_pieces` does, but from the given states.

        Args:
            states: fp32 [pieces, state_elements(shape)]; not changed.

        Returns:
            payloads, uint8 [pieces, payload_bytes(shape)]; new states, finite even if a piece is not.
        """

    @no_grad
    def encode_pieces(self, pieces: Sequence[Tensor]) -> Tensor:
        """Encodes pieces from the first state; see `Codec.encode_pieces`."""
        first = self.first_state(pieces[0].shape, pieces[0].device)
        return self.encode_from(pieces, first.expand(len(pieces), -1))[0]


def settle(targets: Sequence[Tensor], values: Sequence[Tensor], weight: float, add: bool) -> None:
    """Overwrites the targets by `weight` x `values`, or adds this to them, as `Codec.decode_pieces` does. The values
    have the shapes of the targets and any floating dtype."""
    import torch

    targets, values = tuple(targets), tuple(values)
    if add:
        torch._foreach_add_(targets, [value.float() for value in values], alpha=weight)
    elif len(targets) == 1 and weight != 1:
        torch.mul(values[0].float(), weight, out=targets[0])
    else:
        torch._foreach_copy_(targets, values)
        if weight != 1:
            torch._foreach_mul_(targets, weight)


def as_matrix(shape: Sequence[int], by_row: bool) -> tuple[int, int]:
    """The rows and columns that a piece of that shape is taken as: its first dimension by all others or, if it has
    fewer than two dimensions or `by_row` is False, one row. Without elements there are no rows."""
    elements = math.prod(shape)
    rows = (shape[0] if by_row and len(shape) > 1 else 1) if elements else 0
    return rows, elements // max(rows, 1)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` integers of `bits` bits, packed without gaps."""
    return -(-count * bits // 8)
