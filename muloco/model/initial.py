"""Starts a run from given weights, in a folder of transformers: one that `muloco export --format hf` has written, or
one from the hub. For the paper's models, checking whether they fit needs no torch.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muloco.errors import UserError, naming
from muloco.model.architecture import Flavor, HuggingFaceForm
from muloco.model.weights_folder import WeightsFolder, check_names

if TYPE_CHECKING:
    from torch import nn


def check_initial(folder: Path, flavor: Flavor) -> WeightsFolder:
    """Returns the weights in a folder, after checking by config.json and the files' headers that they are those of a
    flavor. Raises UserError if they are not, and names the first tensor or setting that differs; or if the architecture
    has no Hugging Face form."""
    form = _form(flavor)
    try:
        with naming("checkpoint.initial"):
            weights = WeightsFolder(folder)
            settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        wanted = form.config(flavor, seq_len=1, bos_id=0, eos_id=0)
        kind = settings.get("model_type") if isinstance(settings, dict) else None
        if kind != wanted["model_type"]:
            raise ValueError(
                f"{folder} holds a model of type {kind!r}, but flavor {flavor.alias} is a {wanted['model_type']!r}"
            )
        shapes = form.shapes(flavor)
        check_names(weights.shapes.keys() - _doubled(weights, settings), shapes, where=str(folder))
        for name, shape in shapes.items():
            if weights.shapes[name] != shape:
                raise ValueError(f"{folder}: {name} is {weights.shapes[name]}, but flavor {flavor.alias} has {shape}")
        _check_settings(form, _plain(settings), _plain(wanted), where=f"{folder / 'config.json'}", flavor=flavor)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"checkpoint.initial: {error}") from None
    return weights


def load_initial(folder: Path, parts: Iterable["nn.Module"], flavor: Flavor) -> None:
    """Writes the weights into a model of a flavor, sharded in any way. Raises UserError as `check_initial`."""
    _form(flavor).load(check_initial(folder, flavor), parts, flavor)


def _doubled(weights: WeightsFolder, settings: dict[str, Any]) -> set[str]:
    """Tensors that others stand for: some folders have the head of a model that ties it to the embedding."""
    return {"lm_head.weight"} if settings.get("tie_word_embeddings") else set()


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of config.json, with those of the rotary embedding as transformers 5 writes them: `rope_parameters`
    has what `rope_theta` and `rope_scaling` had before."""
    plain = dict(settings)
    theta, scaling = plain.pop("rope_theta", None), plain.pop("rope_scaling", None)
    if theta is not None:
        plain.setdefault("rope_parameters", {"rope_type": "default", "rope_theta": theta, **(scaling or {})})
    return plain


def _check_settings(
    form: HuggingFaceForm, found: dict[str, Any], wanted: dict[str, Any], *, where: str, flavor: Flavor
) -> None:
    """Raises ValueError if settings that decide what the model computes differ. Where a folder names none, its model
    has the default of transformers."""
    for name in form.decisive:
        if name in found and name in wanted and found[name] != wanted[name]:
            raise ValueError(f"{where}: {name} is {found[name]!r}, but flavor {flavor.alias} has {wanted[name]!r}")


def _form(flavor: Flavor) -> HuggingFaceForm:
    form = flavor.record.huggingface
    if form is None:
        raise UserError(
            f"checkpoint.initial: flavor {flavor.alias} is of the architecture {flavor.architecture}, which has no "
            "Hugging Face form"
        )
    return form
