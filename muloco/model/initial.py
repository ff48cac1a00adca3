"""Starts a run from given weights, in a folder that `muloco export --format hf` has written. Checking whether they fit
needs no torch.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from muloco.errors import UserError, naming
from muloco.model.architecture import Flavor, HuggingFaceForm
from muloco.model.weights_folder import WeightsFolder, check_names

if TYPE_CHECKING:
    from torch import nn


def check_initial(folder: Path, flavor: Flavor) -> WeightsFolder:
    """Returns the weights in a folder, after checking by the files' headers that they are those of a flavor. Raises
    UserError if they are not, and names the first tensor that differs; or if the architecture has no Hugging Face
    form."""
    form = _form(flavor)
    try:
        with naming("checkpoint.initial"):
            weights = WeightsFolder(folder)
            settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = settings.get("model_type") if isinstance(settings, dict) else None
        if kind != form.model_type:
            raise ValueError(f"{folder} holds a model of type {kind!r}; only what `muloco export` has written is read")
        theirs = form.names(flavor)
        check_names(weights.shapes, theirs.values(), where=str(folder))
        for name, wanted in flavor.shapes.items():  # Hugging Face orders rows in another way, and shapes alike
            if (shape := weights.shapes[theirs[name]]) != wanted:
                raise ValueError(f"{folder}: {theirs[name]} is {shape}, but flavor {flavor.alias} has {wanted}")
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"checkpoint.initial: {error}") from None
    return weights


def load_initial(folder: Path, parts: Iterable["nn.Module"], flavor: Flavor) -> None:
    """Writes the weights into a model of a flavor, sharded in any way, one tensor at a time. Raises UserError as
    `check_initial`."""
    import torch

    from muloco import sharding

    weights, form = check_initial(folder, flavor), _form(flavor)
    theirs = form.names(flavor)
    with torch.no_grad():
        for part in parts:
            for name, parameter in part.named_parameters():
                tensor = form.read(name, weights.read(theirs[name]).float(), flavor)
                own = sharding.local(parameter)
                own.copy_(sharding.shard_like(tensor.to(own.device), parameter))


def _form(flavor: Flavor) -> HuggingFaceForm:
    form = flavor.record.huggingface
    if form is None:
        raise UserError(
            f"checkpoint.initial: flavor {flavor.alias} is of the architecture {flavor.architecture}, which has no "
            "Hugging Face form"
        )
    return form
