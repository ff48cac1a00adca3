"""Who gets which part of a global batch, and from which checkpoints a run cannot be continued."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from muloco.errors import UserError
from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.runs.folder import RunFolder
from muloco.runs.manifest import GLOBAL, Save, worker_part
from muloco.settings.config import Config
from muloco.training.continuation import check, deal
from muloco.training.trained import Trained

from ..run_on_disk import add_empty_part


def test_workers_share_each_global_batch() -> None:
    """Of two streams with four batches a step each: what the run's own two workers take, and finer parts of it."""

    def taken(worker: int, workers: int, steps: int) -> list[Any]:
        streams: Any = [_stream("a"), _stream("b")]
        own = deal(streams, batches=8, worker=worker, workers=workers)
        return list(islice(own, 8 // workers * steps))

    assert taken(0, 2, steps=2) == [f"a{n}" for n in range(8)]
    assert taken(1, 2, steps=2) == [f"b{n}" for n in range(8)]
    assert taken(2, 4, steps=2) == ["b0", "b1", "b4", "b5"]
    for workers in (1, 2, 4, 8):
        parts = [taken(worker, workers, steps=3) for worker in range(workers)]
        each = 8 // workers
        steps = [sum((part[each * step : each * (step + 1)] for part in parts), []) for step in range(3)]
        assert steps == [[f"{s}{4 * step + n}" for s in "ab" for n in range(4)] for step in range(3)]


def _stream(name: str) -> Iterator[str]:
    number = 0
    while True:
        yield f"{name}{number}"
        number += 1


def trained(root: Path, *, parts: int = 1, **changes: Any) -> Trained:
    """A checkpoint of step 5 of 8, whose parts are empty."""
    config = Config()
    config.training.steps, config.training.global_batch_size = 8, 8
    for name, value in changes.items():
        section, field = name.split("__")
        setattr(getattr(config, section), field, value)
    run = RunFolder(root)
    folder = CheckpointFolder(run.checkpoint)
    save = Save(step=5, attempt=1, history="", parts=[GLOBAL, *map(worker_part, range(parts))])
    for name in save.parts:
        add_empty_part(folder, save, name)
    assert folder.complete(save)
    return Trained(run=run, step=5, config=config)


def test_what_can_be_continued(tmp_path: Path) -> None:
    check(trained(tmp_path), counts=[1, 2, 4, 8], steps=3)


@pytest.mark.parametrize(
    ("changes", "counts", "steps", "reason"),
    [
        ({}, [1, 3], 3, "global batch of 8 sequences of .*, step 5 cannot be divided over 3 workers"),
        ({}, [0], 3, "over 0 workers"),
        ({}, [1], 4, r"step 5 is 3 steps before the end of the run; 4 inner steps need .* \(step 4 at the latest\)"),
        (
            {"training__steps": 5},
            [1],
            2,
            r"step 5 is the end of the run; 2 inner .* \(step 3 at the latest\)",
        ),
        ({}, [1], 8, "has 8 steps; 8 inner steps are too many"),
        ({}, [1], 0, "must be at least 1; got 0"),
        ({"optimizer__name": "GPA"}, [1], 3, "optimizer.name GPA; .* Muon and AdamW only"),
        ({"fault_tolerance__group_size": 2}, [1], 3, "has no part worker-001"),
    ],
)
def test_what_cannot(tmp_path: Path, changes: dict[str, Any], counts: list[int], steps: int, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check(trained(tmp_path, **changes), counts=counts, steps=steps)
