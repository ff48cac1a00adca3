"""Finds shapes, roles and other properties of one of torchtitan's models from the model itself, on device `meta`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from muloco._torchtitan import Decoder, ModelSpec, MoE, ScaledBiasRowwiseLinear
from muloco.model.architecture import ROLES
from muloco.model.architectures.titan.flavors import Numbers
from muloco.model.architectures.titan.network import text_config
from muloco.model.architectures.titan.patterns import patterns_of
from muloco.optim.roles import roles_of, splits_of


@dataclass(frozen=True, kw_only=True)
class Structure:
    """The structure of one size of a model."""

    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every parameter, by name."""
    roles: Mapping[str, str]
    """Regular expression for the names of the parameters of each role."""
    fused: Mapping[str, tuple[int, ...]]
    """Rows of each matrix in a fused projection, by a regular expression for its name; see `Flavor.fused`."""
    divided: Mapping[str, int]
    """Numbers that the tensor-parallel degree has to divide, by what they count, in words."""
    one_mask: bool
    """Whether all layers take the same attention mask."""
    numbers: Numbers


def structure_of(theirs: ModelSpec) -> Structure:
    """Returns the structure of a model, given torchtitan's specification of it, which is changed. Raises TypeError as
    `text_config`."""
    config = text_config(theirs)
    with torch.device("meta"):
        built = config.build()
    shapes = {name: tuple(parameter.shape) for name, parameter in built.named_parameters()}
    idle = 0
    for module in built.modules():
        if isinstance(module, MoE):
            elements = sum(parameter.numel() for parameter in module.routed_experts.parameters())
            idle += elements - elements * module.router.top_k // module.router.num_experts
    divided_wrongly = any(isinstance(module, ScaledBiasRowwiseLinear) for module in built.modules())
    by_role = patterns_of(roles_of(built))
    parameters = sum(map(math.prod, shapes.values()))
    return Structure(
        shapes=shapes,
        roles={role: by_role[role] for role in ROLES if role in by_role},
        fused={pattern: rows for rows, pattern in patterns_of(splits_of(built)).items()},
        divided=_divided(config),
        one_mask=type(built).get_attention_masks is Decoder.get_attention_masks,
        numbers=Numbers(
            vocabulary=config.vocab_size,
            longest=config.max_seq_len,
            parameters=parameters,
            active=parameters - idle,
            divisible=not divided_wrongly,
            tied="head" not in by_role,
        ),
    )


def _divided(config: Decoder.Config) -> dict[str, int]:
    attention = config.first_attention
    divided = {"heads": attention.n_heads, "entries of the vocabulary": config.vocab_size}
    if groups := getattr(attention, "n_kv_heads", None):
        divided["groups of keys and values"] = groups
    for layer in config.layers:
        if layer.feed_forward is not None:
            divided["hidden units of the feed-forward"] = layer.feed_forward.w1.out_features
    return divided
