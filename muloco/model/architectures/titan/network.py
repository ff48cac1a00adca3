"""torchtitan's own models as muloco trains them: with dense attention on the CPU, three precisions, and initial values
that do not depend on the sharding.

A model is built from the config that torchtitan registers for it. Parts of the config are replaced by such of a
subclass, so nothing here knows a single model.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from muloco._torchtitan import (
    Decoder,
    FlexAttention,
    GroupedExperts,
    ModelSpec,
    Module,
    RoPE,
    VarlenAttention,
    device_type,
    skip_param_init,
)
from muloco.model.decoder import MulocoDecoder, attention, drawn, parallelized

VISION = ("vision_encoder", "vision_adapter", "vision_projection", "perception_emb_norm")
"""Fields of a model's config that describe what it does with images. They are None in a model of text."""


def text_config(theirs: ModelSpec) -> Decoder.Config:
    """Returns the config of a model of torchtitan, which it changes: it loses the parts for images.

    Raises:
        TypeError: the model is no decoder of text.
    """
    config = theirs.model
    if not isinstance(config, Decoder.Config):
        raise TypeError(f"torchtitan's {theirs.name} is no decoder of text")
    for name in VISION:
        if hasattr(config, name):
            setattr(config, name, None)
    return config


def adapted(theirs: ModelSpec, *, seq_len: int, dense: bool, autocast: bool) -> ModelSpec:
    """Returns torchtitan's specification of a model, which it changes, as muloco trains it. The other arguments are
    those of `muloco.model.spec`."""
    config = text_config(theirs)
    _replace(config, FlexAttention.Config, lambda old: attention(dense=dense) if dense or _on_cpu() else old)
    _replace(config, VarlenAttention.Config, lambda old: attention(dense=dense))
    _replace(config, RoPE.Config, lambda old: replace(old, max_seq_len=seq_len))
    _replace(config, GroupedExperts.Config, lambda old: _converted(old, _experts(type(old)._owner, exact=not autocast)))
    if autocast:
        config.lm_head = _converted(config.lm_head, _autocast_head(type(config.lm_head)._owner))
    seen: set[int] = set()
    for _, part, _, _ in config.traverse(Module.Config, recurse=True):
        if part.param_init and id(part) not in seen:
            part.param_init = {name: _drawn(draw) for name, draw in part.param_init.items()}
            seen.add(id(part))
    return replace(
        theirs,
        model=_converted(config, _decoder(type(config)._owner), autocast=autocast),
        parallelize_fn=parallelized(theirs.parallelize_fn),
        state_dict_adapter=None,  # checkpoints are muloco's own
    )


def _on_cpu() -> bool:
    return device_type() == "cpu"


def _replace(config: Module.Config, kind: type, new: Callable[[Any], Module.Config]) -> None:
    """Replaces all parts of a kind in a config."""
    for _, part, parent, place in list(config.traverse(kind)):
        if isinstance(place, int):
            parent[place] = new(part)
        else:
            setattr(parent, place, new(part))


def _converted(config: Module.Config, kind: type[Module], **values: Any) -> Module.Config:
    """The config as one of a subclass of its module, with more values."""
    return kind.Config(**{field.name: getattr(config, field.name) for field in fields(config)}, **values)


def _drawn(draw: Callable) -> Callable:
    """An initialization that is the same however the model is sharded; a tied tensor is left to its other name."""
    return draw if draw is skip_param_init else drawn(draw)


@cache
def _decoder(kind: type[Decoder]) -> type[Decoder]:
    """torchtitan's model with the additions of muloco's models."""

    class TitanDecoder(MulocoDecoder, kind):  # type: ignore[misc,valid-type]
        @dataclass(kw_only=True, slots=True)
        class Config(kind.Config):  # type: ignore[name-defined]
            autocast: bool = False

    return TitanDecoder


@cache
def _autocast_head(kind: type[nn.Module]) -> type[Module]:
    """A head that a chunked loss may call outside of the model's forward pass."""

    class AutocastHead(kind):  # type: ignore[misc,valid-type]
        @dataclass(kw_only=True, slots=True)
        class Config(kind.Config):  # type: ignore[name-defined]
            pass

        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
            with torch.autocast(device_type(), torch.bfloat16):
                return super().forward(input)

    return AutocastHead


@cache
def _experts(kind: type[GroupedExperts], *, exact: bool) -> type[GroupedExperts]:
    """Experts whose result has the dtype of their input.

    torchtitan's experts compute in bf16, whatever they are given. Exact ones compute in the dtype of their parameters,
    as all other modules do.
    """

    class TitanExperts(kind):  # type: ignore[misc,valid-type]
        @dataclass(kw_only=True, slots=True)
        class Config(kind.Config):  # type: ignore[name-defined]
            pass

        def forward(self, x_RD: torch.Tensor, num_tokens_per_expert_E: torch.Tensor) -> torch.Tensor:
            if not exact:
                return super().forward(x_RD, num_tokens_per_expert_E).type_as(x_RD)
            with _WithoutCasts():
                return super().forward(x_RD, num_tokens_per_expert_E).type_as(x_RD)

    return TitanExperts


class _WithoutCasts(TorchFunctionMode):
    """Within the context `tensor.bfloat16()` is the tensor itself."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return args[0] if func is torch.Tensor.bfloat16 else func(*args, **(kwargs or {}))
