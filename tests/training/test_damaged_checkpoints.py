"""Training with checkpoints that are damaged, hostile, or of earlier versions, in this process."""

import errno
import fcntl
import json
import logging
import random
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from muloco.outer.protocol.transaction import StateLost
from muloco.runs import safe_reader
from muloco.runs.checkpoint_folder import CheckpointFolder, NoWholeCheckpoint
from muloco.runs.folder import RunFolder, read_metrics
from muloco.runs.manifest import GLOBAL
from muloco.training.checkpoint import CheckpointRemoved
from muloco.training.checkpoint_writer import CheckpointNotWritten

from ..hostile import GADGETS, hide_in_metadata
from ..run_on_disk import reseal
from .one_worker import losses, train

SETTINGS = {
    "checkpoint__enable": True,
    "checkpoint__interval": 2,
    "checkpoint__keep": 0,
    "fault_tolerance__sync_steps": 2,
    "compression__kind": "lloyd_max",
    "compression__bits": 4,
    "compression__error_feedback": True,
    "validation__freq": 6,
}
TWO = {**SETTINGS, "fault_tolerance__group_size": 2, "fault_tolerance__transport": "in_process"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above a run of one worker with checkpoints of steps 2, 4 and 6."""
    return run_of(tmp_path_factory.mktemp("alone"), SETTINGS)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two workers."""
    return run_of(tmp_path_factory.mktemp("together"), TWO)


def run_of(outputs: Path, settings: dict[str, Any]) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        train(outputs, patch, "muloco", **settings)
    return outputs


@pytest.fixture
def monkey(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Sets the environment of a worker of a second attempt."""
    monkeypatch.setenv("MULOCO_ATTEMPT", "2")
    return monkeypatch


def copy(outputs: Path, to: Path) -> RunFolder:
    """A run that is to go on behind step 4, where it has no checkpoint of step 6 yet."""
    shutil.copytree(outputs / "run", to / "run")
    shutil.rmtree(to / "run" / "checkpoint" / "step-6")
    return RunFolder(to / "run")


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def flip_in_the_middle(path: Path) -> None:
    flip(path, 4 * path.stat().st_size)


def test_a_flipped_bit_anywhere_is_caught_or_changes_nothing(alone: Path, tmp_path: Path) -> None:
    """Anchor, momentum, parameters, metadata, part.json, manifest. What is read from a JSON file is all that counts of
    it, and each part knows its files by their digests."""
    folder = CheckpointFolder(copy(alone, tmp_path).checkpoint)
    whole, draw, caught = folder.read(4), random.Random(0), 0
    files = [path for path in sorted((folder.root / "step-4").rglob("*")) if path.is_file()]
    assert len(files) == 7
    for path in files:
        before = path.read_bytes()
        for _ in range(40):
            flip(path, draw.randrange(8 * len(before)))
            try:
                found = folder.read_verified(4)
            except ValueError as error:
                assert "\n" not in str(error)
                caught += 1
            else:
                assert found == whole and path.suffix == ".json", path
            path.write_bytes(before)
    assert caught > 5 * 40  # the rest is white space


def damage_global(run: RunFolder) -> str:
    flip_in_the_middle(run.checkpoint / "step-4" / "global" / "__0_0.distcp")
    return "global/__0_0.distcp is damaged: its SHA-256"


def damage_worker(run: RunFolder) -> str:
    flip_in_the_middle(run.checkpoint / "step-4" / "worker-000" / "__0_0.distcp")
    return "worker-000/__0_0.distcp is damaged: its SHA-256"


def swap_globals(run: RunFolder) -> str:
    for name in ("__0_0.distcp", ".metadata"):
        shutil.copy(run.checkpoint / "step-2" / "global" / name, run.checkpoint / "step-4" / "global" / name)
    return "is damaged: its SHA-256"


def hide_object(run: RunFolder) -> str:
    """Hides a foreign object in the metadata, and corrects the digests."""
    hide_in_metadata(run.checkpoint / "step-4" / "global", GADGETS["os.system"](run.root / "proof"))
    reseal(run, 4)
    return "global/.metadata cannot be read as the metadata of a checkpoint: it names posix.system"


@pytest.mark.parametrize("damage", [damage_global, damage_worker, swap_globals, hide_object])
def test_the_next_older_one_is_taken_and_nothing_is_different_at_the_end(
    alone: Path,
    tmp_path: Path,
    monkey: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[RunFolder], str],
) -> None:
    run = copy(alone, tmp_path)
    reason = damage(run)
    with caplog.at_level(logging.INFO):
        lines = train(tmp_path, monkey, "muloco", **SETTINGS)
    aside = [record.message for record in caplog.records if "skipped checkpoint" in record.message]
    assert len(aside) == 1 and reason in aside[0] and "step-4" in aside[0] and "\n" not in aside[0]
    assert "resumed from checkpoint step-2" in caplog.messages
    assert not (run.root / "proof").exists()
    assert losses(lines) == losses(read_metrics(RunFolder(alone / "run")))
    assert CheckpointFolder(run.checkpoint).read(4).attempt == 2, "it was saved again"


def test_a_worker_whose_part_is_damaged_goes_on_from_the_anchor(
    together: Path, tmp_path: Path, monkey: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = copy(together, tmp_path)
    flip_in_the_middle(run.checkpoint / "step-4" / "worker-001" / "__0_0.distcp")
    with caplog.at_level(logging.INFO):
        lines = train(tmp_path, monkey, "muloco", **TWO)
    assert caplog.messages.count("resumed from checkpoint step-4") == 2
    (told,) = [message for message in caplog.messages if "begins with the anchor" in message]
    assert told.startswith("checkpoint step-4 has no whole part of worker 1: it begins") and "worker-000" in told
    assert [(line["worker"], line["step"]) for line in lines if line.get("event") == "join"] == [(1, 4)]
    digests = {line["step"]: line["digest"] for line in lines if line.get("event") == "sync" and line["worker"] == 0}
    assert {line["digest"] for line in lines if line.get("event") == "sync" and line["step"] == 6} == {digests[6]}


@pytest.mark.full
def test_one_without_any_whole_part_of_a_worker_is_left_aside_by_all(
    together: Path, tmp_path: Path, monkey: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = copy(together, tmp_path)
    for worker in ("worker-000", "worker-001"):
        flip_in_the_middle(run.checkpoint / "step-4" / worker / "__0_0.distcp")
    with caplog.at_level(logging.INFO):
        train(tmp_path, monkey, "muloco", **TWO)
    assert caplog.messages.count("resumed from checkpoint step-2") == 2


def test_without_a_whole_one_the_run_does_not_begin_anew(
    alone: Path, tmp_path: Path, monkey: pytest.MonkeyPatch
) -> None:
    run = copy(alone, tmp_path)
    for step in (2, 4):
        flip_in_the_middle(run.checkpoint / f"step-{step}" / GLOBAL / "__0_0.distcp")
    with pytest.raises(NoWholeCheckpoint, match=r"step-4.*is damaged.*step-2.*is damaged.*to start from the beginning"):
        train(tmp_path, monkey, "muloco", **SETTINGS)


def test_one_of_an_earlier_version_is_loaded_with_a_warning(
    alone: Path, tmp_path: Path, monkey: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = copy(alone, tmp_path)

    def without_digests(files: dict) -> dict:
        return {name: about["bytes"] for name, about in files.items()}

    manifest = run.checkpoint / "step-4" / "manifest.json"
    contents = json.loads(manifest.read_text())
    contents["files"] = {name: without_digests(files) for name, files in contents["files"].items()}
    manifest.write_text(json.dumps(contents))
    for name in contents["parts"]:
        path = run.checkpoint / "step-4" / name / "part.json"
        part = json.loads(path.read_text())
        path.write_text(json.dumps({"save": part["save"], "files": without_digests(part["files"])}))
    with caplog.at_level(logging.INFO):
        lines = train(tmp_path, monkey, "muloco", **SETTINGS)
    assert len([message for message in caplog.messages if "cannot be verified" in message]) == 1
    assert "resumed from checkpoint step-4" in caplog.messages
    assert losses(lines) == losses(read_metrics(RunFolder(alone / "run")))


def test_the_last_validation_is_not_lost_with_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: CheckpointFolder, *values: Any) -> None:
        raise OSError(28, "No space left on device", "part")

    monkeypatch.setattr(CheckpointFolder, "publish", full)
    with pytest.raises(CheckpointNotWritten, match="checkpoint step-6 was not written: .*No space left on device"):
        train(tmp_path, monkeypatch, "muloco", **SETTINGS)
    lines = read_metrics(RunFolder(tmp_path / "run"))
    assert [line["step"] for line in lines if line.get("event") == "checkpoint_failed"] == [2, 4, 6]
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 6]


def no_locks(file: int, how: int) -> None:
    raise OSError(errno.ENOLCK, "no locks here")


@pytest.mark.parametrize(
    ("owner", "method", "locks", "end", "message"),
    [
        (CheckpointFolder, "read", True, None, "resumed from checkpoint step-6"),
        (CheckpointFolder, "verify", True, StateLost, "resumed from checkpoint step-4"),
        (CheckpointFolder, "verify", False, None, "resumed from checkpoint step-6"),
        (safe_reader, "load", True, StateLost, "resumed from checkpoint step-4"),
        (safe_reader, "load", False, CheckpointRemoved, "verified checkpoint step-4"),
    ],
)
def test_a_worker_loads_a_checkpoint_while_others_replace_it(
    alone: Path,
    tmp_path: Path,
    monkey: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: Any,
    method: str,
    locks: bool,
    end: type[Exception] | None,
    message: str,
) -> None:
    """When it calls this method, they complete the checkpoint of step 6 and remove all older ones. A worker that has
    loaded an older one and then meets nobody is not to go on from there, which is the error StateLost."""
    run = copy(alone, tmp_path)
    original = getattr(owner, method)

    def others_save(*values: Any, **named: Any) -> Any:
        monkey.setattr(owner, method, original)
        shutil.copytree(alone / "run" / "checkpoint" / "step-6", run.checkpoint / "step-6")
        CheckpointFolder(run.checkpoint).purge(1, newest=6)
        return original(*values, **named)

    monkey.setattr(owner, method, others_save)
    if not locks:
        monkey.setattr(fcntl, "flock", no_locks)
    with caplog.at_level(logging.INFO), pytest.raises(end) if end else nullcontext():
        train(tmp_path, monkey, "muloco", **SETTINGS)
    assert any(told.startswith(message) for told in caplog.messages)
