"""The records of the models that torchtitan comes with, one for each. Needs torch only to build or describe a model.

A flavor has torchtitan's names of model and size, such as `qwen3/0.6B`, and is the text part of the model.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from muloco.model.architecture import Architecture, HuggingFaceForm
from muloco.model.architectures.titan.flavors import Numbers, TitanFlavor
from muloco.model.architectures.titan.huggingface import FORMS
from muloco.model.architectures.titan.sizes import SIZES

if TYPE_CHECKING:
    from muloco._torchtitan import ModelSpec


def from_torchtitan(
    model: str,
    sizes: Mapping[str, Callable[[], "ModelSpec"]],
    *,
    numbers: Mapping[str, Numbers] | None = None,
    huggingface: HuggingFaceForm | None = None,
) -> Architecture:
    """Returns the record of a model that is written for torchtitan.

    Args:
        model: its name. Its flavors are called `model/size`.
        sizes: makes torchtitan's specification of each size, by name, a new one with every call.
        numbers: of each size, by name. None: they are found from the models, which imports torch.
        huggingface: as in `Architecture`; `huggingface.FORMS` has those of torchtitan's own models.

    Raises:
        TypeError: the model is no decoder of text.
    """
    if numbers is None:
        from muloco.model.architectures.titan.structure import structure_of

        numbers = {size: structure_of(theirs()).numbers for size, theirs in sizes.items()}
    name = f"torchtitan/{model}"
    flavors = [
        TitanFlavor(
            architecture=name,
            alias=f"{model}/{size}",
            vocabulary=numbers[size].vocabulary,
            numbers=numbers[size],
            theirs=theirs,
        )
        for size, theirs in sizes.items()
    ]
    return Architecture(name=name, flavors=tuple(flavors), spec=_spec, roles={}, huggingface=huggingface)


def _spec(flavor: TitanFlavor, *, seq_len: int, dense: bool, autocast: bool) -> "ModelSpec":
    from muloco.model.architectures.titan.network import adapted

    return adapted(flavor.theirs(), seq_len=seq_len, dense=dense, autocast=autocast)


def _theirs(model: str, size: str) -> "ModelSpec":
    from muloco._torchtitan import model_spec

    return model_spec(model, size)


ARCHITECTURES = tuple(
    from_torchtitan(
        model,
        {size: partial(_theirs, model, size) for size in sizes},
        numbers={size: Numbers(*values) for size, values in sizes.items()},
        huggingface=FORMS.get(model),
    )
    for model, sizes in SIZES.items()
)
