"""Run folders as a finished run leaves them, with numbers that a test chooses."""

from pathlib import Path
from typing import Any

from muloco.recipes import base
from muloco.resolve import resolve
from muloco.runs.folder import MetricsWriter, RunFolder, write_json
from muloco.settings.config import Config
from muloco.settings.stored import to_dict


def muloco(flavor: str = "416M", workers: int = 2, *, lr: float = 0.02, **changes: Any) -> Config:
    return small(
        base.muloco(base.workers(base.paper(flavor), workers), lr=lr, outer_lr=0.9, outer_momentum=0.8), changes
    )


def diloco(flavor: str = "416M", workers: int = 2, *, lr: float = 0.002, **changes: Any) -> Config:
    return small(
        base.diloco(base.workers(base.paper(flavor), workers), lr=lr, outer_lr=0.9, outer_momentum=0.9), changes
    )


def data_parallel(optimizer: str = "Muon", flavor: str = "416M", *, lr: float = 0.02, **changes: Any) -> Config:
    return small(base.data_parallel(base.paper(flavor), optimizer=optimizer, lr=lr), changes)


def small(config: Config, changes: dict[str, Any]) -> Config:
    """A config with fields changed, by names such as `training__tokens`."""
    config.training.local_batch_size = 1
    for name, value in changes.items():
        section, field = name.split("__")
        setattr(getattr(config, section), field, value)
    return config


def finished(root: Path, config: Config, loss: float, **summary: Any) -> Path:
    """Writes a finished run with a final held-out loss, in two validations by its end."""
    resolved = written(root, config)
    steps = resolved.training.steps
    assert steps is not None
    tokens = resolved.tokens_per_step // resolved.workers
    for worker in range(resolved.workers):
        writer = MetricsWriter(RunFolder(root).metrics(worker), worker=worker, attempt=1)
        writer.write(0, {"validation_loss": loss + 2})
        for step in (1, 2):
            writer.write(step, {"loss": loss + 1, "tokens": step * tokens, "tokens_per_second": tokens / 0.5})
        writer.write(steps, {"validation_loss": loss})
        writer.close()
    whole = {
        "workers": resolved.workers,
        "steps": steps,
        "tokens": resolved.training.tokens,
        "validation_loss": loss,
        "bytes_sent_per_worker": 0,
        "lost_steps": 0,
        "wall_seconds": 7200.0,
    }
    write_json(RunFolder(root).summary, whole | summary)
    return root


def written(root: Path, config: Config) -> Config:
    """Writes the config alone, as a run does that has just begun."""
    resolved = resolve(config, config_name=root.name)
    write_json(RunFolder(root).config, {"chosen": to_dict(config), "resolved": to_dict(resolved)})
    return resolved
