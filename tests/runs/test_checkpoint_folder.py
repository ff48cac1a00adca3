"""Which checkpoints count."""

import errno
import fcntl
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from muloco.runs import manifest
from muloco.runs.checkpoint_folder import CheckpointFolder, Incomplete, NoWholeCheckpoint
from muloco.runs.digests import sha256_of
from muloco.runs.manifest import Manifest, Save

from ..run_on_disk import files_in

PART, METADATA = "part.json", ".metadata"
PARTS = ["global", "worker-000", "worker-002"]


def save_of(step: int, *, attempt: int = 1, history: str = "h", parts: list[str] = PARTS) -> Save:
    return Save(step=step, attempt=attempt, history=history, parts=parts)


def write(folder: CheckpointFolder, save: Save, *parts: str) -> bool:
    """Writes parts and says whether the checkpoint is whole then."""
    for name in parts:
        unfinished = folder.unfinished(save.step, name)
        unfinished.mkdir(parents=True)
        (unfinished / "__0_0.distcp").write_bytes(f"{name} of {save.step:05} ".encode() * 100)
        (unfinished / ".metadata").write_bytes(b"m" * 7)
        folder.publish(save, name, files_in(unfinished))
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
    assert newest is None and aside == [
        f"{folder.root}/step-10: not all of its parts were written: it has no manifest.json"
    ]
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


def edit(path: Path, change: Callable[[dict], object]) -> None:
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


def swap(one: Path, other: Path) -> None:
    one.rename(one.parent / "swapped")
    other.rename(one)
    (one.parent / "swapped").rename(other)


def link(path: Path) -> None:
    """Moves a file or folder away, and leaves a link to it."""
    path.symlink_to(path.rename(path.parent / "elsewhere"))


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


MANIFEST = "manifest.json"
ANCHOR = "global/__0_0.distcp"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "torn manifest": (lambda step: (step / MANIFEST).write_text('{"step": 20, "par'), "manifest.json is damaged"),
    "empty manifest": (lambda step: (step / MANIFEST).write_text(""), "manifest.json is empty"),
    "manifest of zeros": (lambda step: rewrite(step / MANIFEST, lambda data: bytes(len(data))), "is damaged"),
    "half of the manifest zeros": (
        lambda step: rewrite(step / MANIFEST, lambda data: data[: len(data) // 2] + bytes(len(data) // 2)),
        "manifest.json is damaged",
    ),
    "manifest that is a list": (lambda step: (step / MANIFEST).write_text('["step", 20]'), "holds no JSON object"),
    "manifest of brackets": (lambda step: (step / MANIFEST).write_text("[" * 100_000), "nested too deeply"),
    "manifest that is {}": (lambda step: (step / MANIFEST).write_text("{}"), "'step' is missing or of the wrong type"),
    "manifest that is a folder": (
        lambda step: ((step / MANIFEST).unlink(), (step / MANIFEST).mkdir()),
        "manifest.json is not a file",
    ),
    "no manifest": (lambda step: (step / MANIFEST).unlink(), "not all of its parts were written"),
    "manifest of a later version": (
        lambda step: edit(step / MANIFEST, lambda m: m.update(shape="round")),
        "has the unknown field 'shape': a later version wrote it",
    ),
    "digest of a later version": (
        lambda step: edit(step / MANIFEST, lambda m: m["files"]["global"][".metadata"].update(blake3="00")),
        "has the unknown field 'blake3'",
    ),
    "manifest without the files of a part": (
        lambda step: edit(step / MANIFEST, lambda m: m["files"].pop("global")),
        "its files do not match its parts",
    ),
    "manifest without files": (
        lambda step: edit(step / MANIFEST, lambda m: m.update(files={})),
        "its files do not match its parts",
    ),
    "manifest without a part's metadata": (
        lambda step: edit(step / MANIFEST, lambda m: m["files"].update({"global": {}})),
        "a part has no file .metadata",
    ),
    "manifest with a file elsewhere": (
        lambda step: edit(step / MANIFEST, lambda m: m["files"]["global"].update({"../../x": 0})),
        "no file of a part is named '../../x'",
    ),
    "manifest with a part elsewhere": (
        lambda step: edit(step / MANIFEST, lambda m: m["parts"].append("../x")),
        "no part is named '../x'",
    ),
    "manifest with a part twice": (
        lambda step: edit(step / MANIFEST, lambda m: m["parts"].append("global")),
        "its parts are",
    ),
    "manifest with a step that is no number": (
        lambda step: edit(step / MANIFEST, lambda m: m.update(step="20")),
        "'step' is missing or of the wrong type",
    ),
    "manifest of another step": (
        lambda step: shutil.copy(step.parent / "step-10" / MANIFEST, step),
        "manifest.json belongs to step 10",
    ),
    "another digest in the manifest": (
        lambda step: edit(step / MANIFEST, lambda m: m["files"]["global"][".metadata"].update(sha256="0" * 64)),
        "global and manifest.json describe different files",
    ),
    "part.json and metadata of another step": (
        lambda step: [shutil.copy(step.parent / "step-10" / "global" / f, step / "global") for f in (PART, METADATA)],
        "/global belongs to another save than manifest.json",
    ),
    "empty part.json": (lambda step: (step / "global" / PART).write_text(""), "/global/part.json is empty"),
    "part.json that is {}": (lambda step: (step / "global" / PART).write_text("{}"), "'save' is missing"),
    "no part.json": (lambda step: (step / "global" / PART).unlink(), "/global/part.json is missing"),
    "global of another step": (
        lambda step: swap(step / "global", step.parent / "step-10" / "global"),
        "/global belongs to another save than manifest.json",
    ),
    "worker of another step": (
        lambda step: swap(step / "worker-002", step.parent / "step-10" / "worker-002"),
        "/worker-002 belongs to another save than manifest.json",
    ),
    "workers swapped": (
        lambda step: swap(step / "worker-000", step / "worker-002"),
        "/worker-000 holds the part worker-002",
    ),
    "shorter file": (
        lambda step: rewrite(step / ANCHOR, lambda data: data[:-1]),
        "/global/__0_0.distcp has 1599 bytes instead of 1600",
    ),
    "no metadata": (lambda step: (step / "global" / METADATA).unlink(), "/global/.metadata is missing"),
    "no part": (lambda step: shutil.rmtree(step / "worker-000"), "/worker-000 is missing"),
    "linked part": (lambda step: link(step / "global"), "/global is a link"),
    "linked file": (lambda step: link(step / ANCHOR), "/global/__0_0.distcp is a link"),
    "linked manifest": (lambda step: link(step / MANIFEST), "/manifest.json is a link"),
    "file of zeros": (lambda step: rewrite(step / ANCHOR, lambda data: bytes(len(data))), "is damaged: its SHA-256"),
    "half a file of zeros": (
        lambda step: rewrite(step / ANCHOR, lambda data: data[:800] + bytes(800)),
        "/global/__0_0.distcp is damaged: its SHA-256 is",
    ),
    "one bit": (
        lambda step: rewrite(step / ANCHOR, lambda data: data[:700] + bytes([data[700] ^ 4]) + data[701:]),
        "/global/__0_0.distcp is damaged: its SHA-256 is",
    ),
    "data of another step": (
        lambda step: swap(step / ANCHOR, step.parent / "step-10" / ANCHOR),
        "/global/__0_0.distcp is damaged: its SHA-256 is",
    ),
    "data of another part": (
        lambda step: rewrite(step / ANCHOR, lambda data: data.replace(b"global", b"golbal")),
        "/global/__0_0.distcp is damaged: its SHA-256 is",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_newest_whole_one_is_taken_and_newer_ones_are_named(folder: CheckpointFolder, name: str) -> None:
    damage, reason = DAMAGES[name]
    for step in (5, 10, 20):
        write(folder, save_of(step), *PARTS)
    damage(folder.root / "step-20")
    newest, aside = folder.newest(folder.read_verified)
    assert newest is not None and newest.step in (5, 10)  # what was swapped is damaged, too
    assert reason in aside[0] and f"{folder.root}/step-20" in aside[0] and "\n" not in aside[0], aside[0]


def test_ranks_share_the_files_of_a_part(folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, save_of(10), *PARTS)
    rewrite(folder.root / "step-10" / ANCHOR, lambda data: bytes(len(data)))
    read: list[str] = []

    def counted(path: Path, tell: object) -> str:
        read.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr("muloco.runs.checkpoint_folder.sha256_of", counted)
    manifest = folder.read(10)
    with pytest.raises(ValueError, match="is damaged"):
        folder.verify(manifest, "global", rank=0, ranks=2)
    folder.verify(manifest, "global", rank=1, ranks=2)
    assert sorted(read) == [METADATA, "__0_0.distcp"]


def test_a_renamed_folder_is_not_the_checkpoint_of_that_step(folder: CheckpointFolder) -> None:
    write(folder, save_of(10), *PARTS)
    write(folder, save_of(20), *PARTS)
    (folder.root / "step-20").rename(folder.root / "step-2000")
    shutil.copytree(folder.root / "step-10", folder.root / "step-0030")
    newest, aside = folder.newest()
    assert newest is not None and newest.step == 10
    assert aside == [f"{folder.root}/step-2000: manifest.json belongs to step 20"]


def test_those_of_earlier_versions_are_read_without_digests(folder: CheckpointFolder) -> None:
    """They have sizes alone, and their parts no names."""
    write(folder, save_of(10), *PARTS)
    step = folder.root / "step-10"

    def sizes(files: dict) -> dict:
        return {name: about["bytes"] for name, about in files.items()}

    edit(step / MANIFEST, lambda m: m.update(files={name: sizes(files) for name, files in m["files"].items()}))
    for name in PARTS:
        edit(step / name / PART, lambda part: (part.pop("name"), part.update(files=sizes(part["files"]))))
    assert not folder.read_verified(10).has_digests
    rewrite(step / ANCHOR, lambda data: data[:-1])
    with pytest.raises(ValueError, match="has 1599 bytes instead of 1600"):
        folder.read(10)


def test_damage_of_all_of_them_is_not_a_fresh_start(folder: CheckpointFolder) -> None:
    for step in (10, 20):
        write(folder, save_of(step), *PARTS)
        DAMAGES["shorter file" if step == 20 else "no metadata"][0](folder.root / f"step-{step}")
    with pytest.raises(
        NoWholeCheckpoint, match=r"step-20/global/__0_0.distcp has 1599 bytes.*step-10/global.*from the beginning"
    ):
        folder.newest()


def test_old_ones_go_and_so_do_older_ones_that_never_were_whole(folder: CheckpointFolder) -> None:
    for step in (10, 30, 40, 50):
        write(folder, save_of(step), *PARTS)
    for step in (20, 45, 60):
        write(folder, save_of(step), "global")
    folder.purge(0, newest=60)
    assert len(list(folder.root.iterdir())) == 7
    folder.purge(2, newest=20)
    assert len(list(folder.root.iterdir())) == 7
    folder.purge(2, newest=60)
    assert sorted(path.name for path in folder.root.iterdir()) == ["step-40", "step-45", "step-50", "step-60"]
    folder.purge(2, newest=60)
    assert newest_step(folder) == 50


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_one_that_is_held_stays_until_nobody_holds_it(folder: CheckpointFolder) -> None:
    for step in (10, 20, 30):
        write(folder, save_of(step), *PARTS)
    with folder.held(10):
        with folder.held(10):
            folder.purge(1, newest=30)
        folder.purge(1, newest=30)
        assert folder.steps() == [10, 30] and folder.read_verified(10).step == 10
    folder.purge(1, newest=30)
    assert folder.steps() == [30]
    with pytest.raises(Incomplete, match="it was removed while it was read"), folder.held(10):
        pass


@pytest.mark.usefixtures("no_locks")
def test_without_locks_old_ones_go_all_the_same(folder: CheckpointFolder) -> None:
    for step in (10, 20):
        write(folder, save_of(step), *PARTS)
    with folder.held(10):
        folder.purge(1, newest=20)
    assert folder.steps() == [20]


def test_one_that_replaces_all_others_meanwhile_is_found(folder: CheckpointFolder) -> None:
    """Neither those that were removed nor the one that was not written yet are damaged."""
    write(folder, save_of(10), *PARTS)
    write(folder, save_of(20), "global")
    looked: list[int] = []

    def read(step: int) -> Manifest:
        looked.append(step)
        try:
            return folder.read(step)
        finally:
            if len(looked) == 1:
                write(folder, save_of(20), "worker-000", "worker-002")
                folder.purge(1, newest=20)

    newest, aside = folder.newest(read)
    assert newest is not None and (newest.step, aside, looked) == (20, [], [20, 10, 20])


def test_what_is_being_removed_is_not_damaged(folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, save_of(10), *PARTS)
    read_part = manifest.read_part

    def removed(part: Path) -> object:
        (folder.root / "step-10" / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(part)
        return read_part(part)

    monkeypatch.setattr(manifest, "read_part", removed)
    newest, aside = folder.newest()
    assert newest is None and len(aside) == 1
