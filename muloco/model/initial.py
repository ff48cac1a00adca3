"""A run that starts from given weights: a folder that `muloco export --format hf` has written.

The check whether a folder's weights fit needs no torch.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from muloco.errors import UserError, naming
from muloco.model.flavors import Flavor
from muloco.model.huggingface import check_names, from_huggingface, names
from muloco.model.weights_folder import WeightsFolder

if TYPE_CHECKING:
    from torch import nn


def check_initial(folder: Path, size: Flavor) -> WeightsFolder:
    """The weights in a folder, whose heads say that they are those of a flavor.

    Raises:
        UserError: they are not; names the first tensor that differs.
    """
    try:
        with naming("checkpoint.initial"):
            weights = WeightsFolder(folder)
            settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = settings.get("model_type") if isinstance(settings, dict) else None
        if kind != "gemma3_text":
            raise ValueError(f"{folder} holds a model of type {kind!r}; only what `muloco export` has written is read")
        theirs = names(size)
        check_names(weights.shapes, theirs.values(), where=str(folder))
        for name, wanted in size.shapes.items():  # Hugging Face orders rows in another way, and shapes alike
            if (found := weights.shapes[theirs[name]]) != wanted:
                raise ValueError(f"{folder}: {theirs[name]} is {found}, but flavor {size.alias} has {wanted}")
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"checkpoint.initial: {error}") from None
    return weights


def load_initial(folder: Path, parts: Iterable["nn.Module"], size: Flavor) -> None:
    """Writes the weights into a model of a flavor, sharded in any way, one tensor at a time.

    Raises:
        UserError: as `check_initial`.
    """
    import torch

    from muloco import sharding

    weights, theirs = check_initial(folder, size), names(size)
    with torch.no_grad():
        for part in parts:
            for name, parameter in part.named_parameters():
                tensor = from_huggingface(name, weights.read(theirs[name]).float(), size)
                own = sharding.local(parameter)
                own.copy_(sharding.shard_like(tensor.to(own.device), parameter))
