"""Which checkpoints count."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from muloco.training.checkpoint_folder import CheckpointFolder, NoWholeCheckpoint, Save

PARTS = ["global", "worker-000", "worker-002"]


def save_of(step: int, *, attempt: int = 1, history: str = "h", parts: list[str] = PARTS) -> Save:
    return Save(step=step, attempt=attempt, history=history, parts=parts)


def write(folder: CheckpointFolder, save: Save, *parts: str) -> bool:
    """Writes parts and says whether the checkpoint is whole then."""
    for name in parts:
        unfinished = folder.unfinished(save.step, name)
        unfinished.mkdir(parents=True)
        (unfinished / "__0_0.distcp").write_bytes(b"x" * (save.step + 100))
        (unfinished / ".metadata").write_bytes(b"m" * 7)
        folder.publish(save, name, {"__0_0.distcp": save.step + 100, ".metadata": 7})
    return folder.complete(save)


def newest_step(folder: CheckpointFolder) -> int | None:
    newest, _ = folder.newest()
    return None if newest is None else newest.step


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoint")


def test_a_checkpoint_counts_once_all_its_parts_are_there(folder: CheckpointFolder) -> None:
    save = save_of(10)
    assert folder.newest() == (None, [])
    assert not write(folder, save, "worker-002")
    assert not write(folder, save, "worker-000")
    newest, aside = folder.newest()
    assert newest is None and aside == [f"{folder.root}/step-10: not all of its parts were written"]
    assert write(folder, save, "global")
    newest, aside = folder.newest()
    assert newest is not None and (newest.step, newest.parts, aside) == (10, PARTS, [])
    assert json.loads((folder.root / "step-10" / "manifest.json").read_text())["parts"] == PARTS
    assert sorted(path.name for path in (folder.root / "step-10").iterdir()) == sorted([*PARTS, "manifest.json"])


@pytest.mark.parametrize(
    "other", [{"attempt": 2}, {"history": "g"}, {"parts": [*PARTS, "worker-001"]}, {"parts": PARTS[:2]}]
)
def test_parts_of_different_saves_of_a_step_make_no_checkpoint(folder: CheckpointFolder, other: dict) -> None:
    first, second = save_of(10), replace(save_of(10), **other)
    write(folder, first, "global", "worker-002")
    assert not write(folder, second, "worker-000")
    assert not folder.complete(first) and newest_step(folder) is None
    assert write(folder, second, *second.parts)
    assert newest_step(folder) == 10


def test_a_step_that_is_saved_again_does_not_count_meanwhile(folder: CheckpointFolder) -> None:
    write(folder, save_of(10), *PARTS)
    again = save_of(10, attempt=2)
    write(folder, again, "worker-000")
    assert newest_step(folder) is None
    assert write(folder, again, "global", "worker-002") and newest_step(folder) == 10


def test_what_is_half_written_does_not_touch_what_is_there(folder: CheckpointFolder) -> None:
    write(folder, save_of(10), *PARTS)
    unfinished = folder.unfinished(10, "worker-000")
    unfinished.mkdir()
    assert newest_step(folder) == 10
    folder.discard_unfinished("worker-002")
    assert unfinished.exists()
    folder.discard_unfinished("worker-000")
    assert not unfinished.exists() and newest_step(folder) == 10


def damage_manifest(step: Path) -> str:
    (step / "manifest.json").write_text('{"step": 20, "par')
    return "manifest.json is damaged"


def empty_manifest(step: Path) -> str:
    (step / "manifest.json").write_text("")
    return "manifest.json is empty"


def manifest_of_another_shape(step: Path) -> str:
    (step / "manifest.json").write_text('["step", 20]')
    return "manifest.json holds no JSON object"


def manifest_without_fields(step: Path) -> str:
    (step / "manifest.json").write_text("{}")
    return "manifest.json is damaged"


def manifest_without_files(step: Path) -> str:
    manifest = json.loads((step / "manifest.json").read_text())
    del manifest["files"]["global"]
    (step / "manifest.json").write_text(json.dumps(manifest))
    return "manifest.json is damaged: KeyError('global')"


def manifest_of_another_step(step: Path) -> str:
    shutil.copy(step.parent / "step-10" / "manifest.json", step)
    return "manifest.json belongs to step 10"


def parts_of_another_save(step: Path) -> str:
    """The files have the right sizes."""
    for name in ("part.json", ".metadata"):
        shutil.copy(step.parent / "step-10" / "global" / name, step / "global")
    return f"{step}/global belongs to another save than manifest.json"


def damage_part_json(step: Path) -> str:
    (step / "global" / "part.json").write_text("")
    return f"{step}/global/part.json is empty"


def damage_size(step: Path) -> str:
    (step / "worker-002" / "__0_0.distcp").write_bytes(b"x" * 100)
    return f"{step}/worker-002/__0_0.distcp has 100 bytes instead of 120"


def damage_metadata(step: Path) -> str:
    (step / "global" / ".metadata").unlink()
    return f"{step}/global/.metadata is missing"


def damage_part(step: Path) -> str:
    shutil.rmtree(step / "worker-000")
    return f"{step}/worker-000/__0_0.distcp is missing"


def damage_set(step: Path) -> str:
    (step / "manifest.json").unlink()
    return "not all of its parts were written"


DAMAGES = [
    *(damage_manifest, empty_manifest, manifest_of_another_shape, manifest_without_fields, manifest_without_files),
    *(manifest_of_another_step, parts_of_another_save, damage_part_json),
    *(damage_size, damage_metadata, damage_part, damage_set),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_whole_one_is_taken_and_newer_ones_are_named(folder: CheckpointFolder, damage) -> None:
    for step in (3, 10, 20):
        write(folder, save_of(step), *PARTS)
    reason = damage(folder.root / "step-20")
    newest, aside = folder.newest()
    assert newest is not None and newest.step == 10
    (only,) = aside
    assert only.startswith(f"{folder.root}/step-20: ") and reason in only


def test_damage_of_all_of_them_is_not_a_fresh_start(folder: CheckpointFolder) -> None:
    for step in (10, 20):
        write(folder, save_of(step), *PARTS)
        damage_size(folder.root / f"step-{step}") if step == 20 else damage_metadata(folder.root / f"step-{step}")
    with pytest.raises(
        NoWholeCheckpoint, match=r"step-20/worker-002/__0_0.distcp has 100 bytes.*step-10/global.*from the beginning"
    ):
        folder.newest()


def test_old_ones_go_and_so_do_older_ones_that_never_were_whole(folder: CheckpointFolder) -> None:
    for step in (10, 30, 40, 50):
        write(folder, save_of(step), *PARTS)
    for step in (20, 45, 60):
        write(folder, save_of(step), "global")
    folder.purge(0)
    assert len(list(folder.root.iterdir())) == 7
    folder.purge(2)
    assert sorted(path.name for path in folder.root.iterdir()) == ["step-40", "step-45", "step-50", "step-60"]
    folder.purge(2)
    assert newest_step(folder) == 50
