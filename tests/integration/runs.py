"""Real runs by the command line, as a user starts them: a lighthouse, worker processes, gloo."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

from muloco.runs.folder import RunFolder, read_metrics

from ..listening import is_loopback
from ..patience import PATIENCE
from .watch import Seen, watched

TINY = {
    "model.flavor": "tiny",
    "training.seq_len": 64,
    "training.global_batch_size": 8,
    "training.local_batch_size": 2,
    "validation.sequences": 16,
    "validation.freq": 1000,
    "lr_scheduler.warmup_steps": 2,
    "metrics.tensorboard": False,
}


@dataclass
class Run:
    """A run that has ended."""

    folder: RunFolder
    status: int
    output: str
    seen: Seen = field(default_factory=Seen)

    def lines(self, **having: Any) -> list[dict[str, Any]]:
        """Metrics lines with these values."""
        return [m for m in read_metrics(self.folder) if all(m.get(k) == v for k, v in having.items())]

    def digests(self) -> list[dict[int, str]]:
        """Digest of the anchor by worker, for each sync of a fragment, in the order of steps and fragments."""
        syncs: dict[tuple[int, int], dict[int, str]] = {}
        for line in self.lines(event="sync"):
            syncs.setdefault((line["step"], line["fragment"]), {})[line["worker"]] = line["digest"]
        return [syncs[sync] for sync in sorted(syncs)]

    def losses(self, worker: int = 0) -> list[tuple[int, float]]:
        return [(line["step"], line["loss"]) for line in self.lines(worker=worker) if "loss" in line]

    def validation(self) -> dict[int, float]:
        return {m["step"]: m["validation_loss"] for m in self.lines(worker=0) if "validation_loss" in m}

    def summary(self) -> dict[str, Any]:
        return json.loads(self.folder.summary.read_text())

    def anchor(self, step: int) -> dict[str, torch.Tensor]:
        """Global parameters in the checkpoint of a step."""
        path = self.folder.checkpoint / f"step-{step}" / "global"
        metadata = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
        anchor = {
            name: torch.empty(m.size, dtype=m.properties.dtype)
            for name, m in metadata.items()
            if name.startswith("anchor.")
        }
        dcp.load(anchor, checkpoint_id=path, no_dist=True)
        return anchor

    def learned(self) -> dict[str, Any]:
        """All that two runs of the same numbers share, to the last bit."""
        workers = range(self.summary()["workers"])
        return {
            "digests": self.digests(),
            "losses": [self.losses(worker) for worker in workers],
            "rates": [[line["lr"] for line in self.lines(worker=worker) if "lr" in line] for worker in workers],
            "validation": self.validation(),
            "tokens": self.summary()["tokens"],
        }

    def go_back_to(self, step: int) -> None:
        """As if it had been stopped after the checkpoint of this step."""
        self.folder.summary.unlink()
        for manifest in self.folder.checkpoint.glob("*/manifest.json"):
            if manifest.parent.name != f"step-{step}":
                manifest.unlink()


Train = Callable[..., Run]


def command(outputs: Path, name: str, config: str, *flags: str, **overrides: Any) -> list[str]:
    """`muloco train` with the tiny settings and these; `__` in a name stands for the dot."""
    values = {**TINY, **{key.replace("__", "."): value for key, value in overrides.items()}}
    values |= {"run.name": name, "run.outputs": str(outputs)}
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "muloco", "train", config, *flags, *words]


def train(outputs: Path, name: str, config: str, *flags: str, **overrides: Any) -> Run:
    """Runs it to its end."""
    folder = RunFolder(outputs / name)
    words = command(outputs, name, config, *flags, **overrides)
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
        watched(process.pid, folder) as seen,
    ):
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except BaseException:
            process.kill()
            raise
    return Run(folder=folder, status=process.returncode, output=output, seen=seen)


def assert_private(run: Run) -> None:
    """Nothing of the run listened on other than loopback, and its secret was seen in the file of its user alone."""
    assert run.seen.listened and [where for where in run.seen.listened if not is_loopback(where[0])] == []
    (secret,) = run.seen.secrets
    assert run.seen.modes == {0o600} and len(secret) == 64
    assert any("muloco worker" in command for command in run.seen.commands)
    assert [command for command in run.seen.commands if secret in command] == []
    files = [path for path in run.folder.root.rglob("*") if path.is_file()]
    assert run.folder.log(0) in files
    assert [path for path in files if secret.encode() in path.read_bytes()] == [] and secret not in run.output
