"""A run folder with a whole checkpoint, made without training."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from muloco.data.corpus import Corpus, Document
from muloco.data.tokenizer import train_tokenizer
from muloco.model import build
from muloco.resolve import resolve
from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.runs.digests import sha256_of
from muloco.runs.folder import RunFolder, read_json, write_json
from muloco.runs.manifest import GLOBAL, METADATA, Save, Stored
from muloco.settings.config import Config
from muloco.settings.stored import to_dict

BYTES = Corpus(name="bytes", documents=tuple(Document(name=str(i), text=f"text {i}") for i in range(40)))


def random_weights(seed: int = 0, flavor: str = "tiny", *, says: int | None = None) -> dict[str, torch.Tensor]:
    """Every tensor is away from its initialization, norms included. Tokens from `says` on are never the
    likeliest."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(flavor, "cpu", seq_len=64)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: parameter.detach() + 0.1 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in model.named_parameters()
    }
    if says is not None:
        weights["lm_head.weight"][says:] = 0
    return weights


def write_run(
    root: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]], *, step: int = 3, vocabulary: int = 258
) -> RunFolder:
    """A run of flavor tiny with a tokenizer of bytes (or larger), and a checkpoint that holds these tensors, by kind
    (`anchor`, `average`, ...) and name."""
    chosen = Config()
    chosen.model.flavor, chosen.data.vocabulary = "tiny", vocabulary
    chosen.training.seq_len, chosen.training.steps, chosen.training.precision = 64, 10, "float32"
    run = RunFolder(root)
    write_json(run.config, {"chosen": to_dict(chosen), "resolved": to_dict(resolve(chosen))})
    train_tokenizer(BYTES, vocabulary, run.tokenizer)
    add_checkpoint(run, tensors, step=step)
    return run


def add_checkpoint(run: RunFolder, tensors: Mapping[str, Mapping[str, torch.Tensor]], *, step: int) -> None:
    folder = CheckpointFolder(run.checkpoint)
    save = Save(step=step, attempt=1, history="", parts=[GLOBAL])
    draft = folder.unfinished(step, GLOBAL)
    dcp.save({kind: dict(group) for kind, group in tensors.items()}, checkpoint_id=draft, no_dist=True)
    folder.publish(save, GLOBAL, files_in(draft))
    assert folder.complete(save)


def files_in(folder: Path) -> dict[str, Stored]:
    """The files of a part that is written, by name."""
    return {
        path.name: Stored(bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in folder.iterdir()
        if path.name != "part.json"
    }


def add_empty_part(folder: CheckpointFolder, save: Save, name: str) -> None:
    """A part that counts, as long as nobody looks into it."""
    draft = folder.unfinished(save.step, name)
    draft.mkdir(parents=True)
    (draft / ".metadata").touch()
    folder.publish(save, name, files_in(draft))


def reseal(run: RunFolder, step: int) -> None:
    """Makes what is in the files of a checkpoint now what was written, as whoever has changed them could do."""
    folder = CheckpointFolder(run.checkpoint)
    path = folder.root / f"step-{step}"
    save = Save(**{key: value for key, value in read_json(path / "manifest.json").items() if key != "files"})
    for name in save.parts:
        (path / name).rename(folder.unfinished(step, name))
        folder.publish(save, name, files_in(folder.unfinished(step, name)))
    assert folder.complete(save)


def save_checkpoint(folder: RunFolder, step: int) -> None:
    """A whole checkpoint without contents."""
    checkpoints = CheckpointFolder(folder.checkpoint)
    save = Save(step=step, attempt=1, history="", parts=[GLOBAL])
    part = checkpoints.unfinished(step, GLOBAL)
    part.mkdir(parents=True)
    (part / METADATA).touch()
    checkpoints.publish(save, GLOBAL, files_in(part))
    assert checkpoints.complete(save)
