"""The two kinds of folder: Hugging Face's, and plain torch."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch

from muloco.data.tokenizer import DocumentTokenizer
from muloco.errors import UserError
from muloco.export.card import card
from muloco.export.target import made
from muloco.model.weights_folder import write_weights
from muloco.runs.folder import write_json
from muloco.training.trained import Trained

GIB = 2**30


def export_huggingface(trained: Trained, folder: Path, *, dtype: torch.dtype, largest: int = 5 * GIB) -> None:
    """A folder that transformers loads as it is: model.safetensors (or shards and their index), config.json,
    generation_config.json, the tokenizer, a card.

    Args:
        folder: is made; it must not exist, or be empty.
        dtype: of the weights.
        largest: bytes of a shard.

    Raises:
        UserError: the architecture has no Hugging Face form; the folder is not empty or cannot be written; the
            tokenizer is missing; a tensor of the checkpoint has no place in the folder, or one is missing.
    """
    flavor = trained.flavor
    form = flavor.record.huggingface
    if form is None:
        raise UserError(
            f"models of the architecture {flavor.architecture} have no Hugging Face form; choose --format torch"
        )
    tokenizer, weights, shapes = trained.tokenizer(), trained.weights(), form.shapes(flavor)
    seq_len, bos_id, eos_id = trained.config.training.seq_len, tokenizer.bos_id, tokenizer.eos_id
    config = form.config(flavor, seq_len=seq_len, bos_id=bos_id, eos_id=eos_id)
    config["dtype"] = str(dtype).removeprefix("torch.")
    with made(folder) as draft:
        write_weights(
            draft,
            {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()},
            ((name, tensor.to(dtype)) for name, tensor in form.written(weights, flavor)),
            largest=largest,
        )
        write_json(draft / "config.json", config)
        generation = {"bos_token_id": bos_id, "eos_token_id": eos_id, "do_sample": False}
        write_json(draft / "generation_config.json", generation)
        _write_tokenizer(tokenizer, draft, seq_len=seq_len)
        (draft / "README.md").write_text(card(trained, form), encoding="utf-8")


def export_torch(trained: Trained, folder: Path, *, dtype: torch.dtype) -> None:
    """A folder with model.pt (a state dict for `muloco.model.build`, which `torch.load(..., weights_only=True)` reads),
    the run's config.json and the tokenizer. Arguments and errors as `export_huggingface`."""
    tokenizer, weights = trained.tokenizer(), trained.weights()
    with made(folder) as draft:
        # buffers keep their dtype: they move in steps that are too small for a shorter one
        short = trained.flavor.shapes.keys()
        state = {name: tensor.to(dtype) if name in short else tensor for name, tensor in weights.items()}
        torch.save(state, draft / "model.pt")
        shutil.copyfile(trained.run.config, draft / "config.json")
        tokenizer.copy_to(draft)


def _write_tokenizer(tokenizer: DocumentTokenizer, folder: Path, *, seq_len: int) -> None:
    """tokenizer.json as it is, and settings under which transformers adds nothing of its own to it."""
    tokenizer.copy_to(folder)
    file = folder / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    kept = {name: settings[name] for name in ("bos_token", "eos_token", "chat_template") if settings.get(name)}
    kept |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": seq_len}
    write_json(file, {**kept, "clean_up_tokenization_spaces": False})
