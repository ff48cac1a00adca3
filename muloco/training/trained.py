"""The model that a run has trained, from one of its checkpoints, whatever workers, ranks and layout wrote it.

It is the global part of the checkpoint: the average if there is one (GPA), else the anchor. Finding a checkpoint needs
no torch, so that a missing one is reported at once.
"""

import contextlib
import logging
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muloco.data.cache import default_cache
from muloco.data.prepare import open_tokenizer
from muloco.data.tokenizer import DocumentTokenizer
from muloco.errors import UserError, error_reason, shown
from muloco.model.architecture import Flavor
from muloco.model.flavors import flavor
from muloco.model.weights_folder import check_names
from muloco.resolve import completed
from muloco.runs.checkpoint_folder import CheckpointFolder, NoWholeCheckpoint
from muloco.runs.folder import RunFolder
from muloco.runs.manifest import GLOBAL, Manifest
from muloco.settings.config import ResolvedConfig
from muloco.settings.load import load_config
from muloco.training.resuming import take_own_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A whole checkpoint of a run."""

    run: RunFolder
    step: int
    config: ResolvedConfig
    """Resolved config of the run."""

    @property
    def flavor(self) -> Flavor:
        return flavor(self.config.model.flavor)

    @property
    def name(self) -> str:
        return f"{self.run.root.resolve().name}, step {self.step}"

    @property
    def part(self) -> Path:
        """Folder of the global part."""
        return CheckpointFolder(self.run.checkpoint).part(self.step, GLOBAL)

    def weights(self) -> dict[str, "torch.Tensor"]:
        """Returns all parameters of the flavor, and the buffers that its workers average, by name, as plain fp32
        tensors in host memory.

        Raises:
            UserError: the part is damaged, cannot be read as data, or holds other parameters.
        """
        import torch
        from torch.distributed.checkpoint.metadata import TensorStorageMetadata

        from muloco.runs import safe_reader

        try:
            stored = safe_reader.read_metadata(self.part).state_dict_metadata
            kind = "average." if any(name.startswith("average.") for name in stored) else "anchor."
            tensors = {
                name: torch.empty(about.size, dtype=about.properties.dtype)
                for name, about in stored.items()
                if name.startswith(kind) and isinstance(about, TensorStorageMetadata)
            }
            safe_reader.load(tensors, self.part, no_dist=True)
            weights = {name.removeprefix(kind): tensor for name, tensor in tensors.items()}
            record = self.flavor.record
            parameters = [name for name in weights if record.buffer_rule(name) != "mean"]
            check_names(parameters, self.flavor.shapes, where=f"{self.part}")
        except ValueError as error:  # also UnreadablePart
            raise UserError(str(error)) from None
        return weights

    def model(self, device: "torch.device | str", *, dtype: "torch.dtype | None" = None) -> "nn.Module":
        """Returns the model on a device in evaluation mode, with dense attention masks (`muloco.model.attention`).
        Its parameters are float32, unless a dtype is given. Rotary embedding and norms are computed as in training.
        Buffers that each worker keeps for itself have their initial values.

        Raises:
            UserError: as `weights`; or the checkpoint lacks a buffer.
        """
        from muloco.model import build
        from muloco.model.buffers import averaged_buffers

        weights = self.weights()
        model = build(self.config.model.flavor, str(device), seq_len=self.config.training.seq_len, dense=True)
        for name in averaged_buffers([model], self.flavor.record):
            if name not in weights:
                raise UserError(f"{self.part} lacks {name}")
        model.load_state_dict(weights, strict=False)  # a tied head is no parameter of its own
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            if dtype is not None:
                parameter.data = parameter.data.to(dtype)
        return model.eval()

    def tokenizer(self) -> DocumentTokenizer:
        """Returns the tokenizer: the copy in the run folder or, for runs of earlier versions without one, that which
        their config names.

        Raises:
            UserError: it is gone or cannot be read.
        """
        data = self.config.data
        if self.run.tokenizer.exists():
            return DocumentTokenizer(self.run.tokenizer)
        logger.warning("%s is missing: taking the tokenizer %s of now", self.run.tokenizer, data.tokenizer)
        return open_tokenizer(data.tokenizer, data.vocabulary, default_cache())


def find_trained(checkpoint: str, *, step: int | None = None, verified: bool = True) -> Trained:
    """Returns the checkpoint that a user means. A run that is still training does not remove it as long as the returned
    object exists, if the file system supports locks.

    Args:
        checkpoint: a run folder, or `.../checkpoint/step-N` in one.
        step: of a run folder's checkpoint; None: the newest whole one.
        verified: whether to compare its global part with the digests, which takes as long as reading it.

    Raises:
        UserError: there is no such checkpoint, or it is incomplete or damaged; one line says why, and which
            checkpoints exist.
    """
    run, step = named_checkpoint(checkpoint, step)
    folder = CheckpointFolder(run.checkpoint)

    held = contextlib.ExitStack()

    def read(step: int) -> Manifest:
        manifest = folder.read(step)
        held.enter_context(folder.held(step))
        if verified:
            folder.verify(manifest, GLOBAL)
        return manifest

    if step is None:
        try:
            newest, aside = folder.newest(read)
        except NoWholeCheckpoint as error:
            raise UserError(str(error).split("; move")[0]) from None
        for reason in aside:
            logger.warning("skipped checkpoint %s", reason)
        if newest is None:
            raise UserError(f"{run.root} has no checkpoint" + ("" if not aside else f" that is whole ({aside[0]})"))
    else:
        try:
            newest = read(step)
        except ValueError as error:
            steps = ", ".join(map(str, folder.steps())) or "none"
            raise UserError(
                f"{run.root}: checkpoint step-{step} cannot be used: {error}; steps there: {steps}"
            ) from None
    if verified and not newest.has_digests:
        logger.warning(
            "checkpoint step-%d has no digests, as an earlier version wrote it: its files cannot be verified",
            newest.step,
        )
    config = completed(load_config(str(run.config.absolute())), where=str(run.config))
    take_own_tokenizer(config, run)
    trained = Trained(run=run, step=newest.step, config=config)
    weakref.finalize(trained, held.close)
    return trained


def named_checkpoint(checkpoint: str, step: int | None) -> tuple[RunFolder, int | None]:
    """Returns the run folder, and the step if one is named, of the checkpoint that a user has named: a run folder, or
    `.../checkpoint/step-N` in one, with or without an option `step` beside it.

    Raises:
        UserError: it is neither, or the run has no checkpoint of that step.
    """
    path = Path(checkpoint)
    if path.name == "config.json":
        path = path.parent
    if path.name.startswith("step-") and path.parent.name == "checkpoint":
        named = path.name.removeprefix("step-")
        if not named.isdecimal() or (step is not None and step != int(named)):
            raise UserError(f"{path} and --step {step} are not the same checkpoint; give one of the two")
        path, step = path.parent.parent, int(named)
    run = RunFolder(path)
    try:
        there = run.config.is_file()
    except (OSError, ValueError) as error:  # too long for a path, not to be entered, a NUL in it
        raise UserError(f"{shown(checkpoint)} cannot be read: {error_reason(error)}") from error
    if not there:
        raise UserError(f"{path} is not the folder of a run: it has no config.json (nor is it .../checkpoint/step-N)")
    folder = CheckpointFolder(run.checkpoint)
    if step is not None and step not in folder.steps():
        steps = ", ".join(map(str, folder.steps()))
        raise UserError(
            f"{path}: there is no checkpoint of step {step}; " + (f"there are {steps}" if steps else "there is none")
        )
    return run, step
