"""The files of a part, with every supported version of torch."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.runs.manifest import Save
from muloco.training.checkpoint_writer import CheckpointWriter


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def save(root: Path, state: dict) -> CheckpointFolder:
    """A checkpoint of step 3 whose one part has this state."""
    folder = CheckpointFolder(root / "checkpoint")
    writer = CheckpointWriter(folder, asynchronous=False, keep=0)
    writer.begin(Save(step=3, attempt=1, history="h", parts=["global"]), {"global": state})
    writer.finish()
    writer.close()
    return folder


def test_the_manifest_has_every_file_with_its_bytes_and_its_digest(one_rank: None, tmp_path: Path) -> None:
    """The digests are taken while torch writes; they are those of the files on the disk."""
    folder = save(tmp_path, {"weight": torch.arange(3_000_000.0), "nested": {"note": "text", "pair": (1, 2.0)}})
    part = folder.part(3, "global")
    files = {path.name: path.read_bytes() for path in part.iterdir() if path.name != "part.json"}
    there = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    described = json.loads((part / "part.json").read_text())
    assert described["files"] == there and sorted(there) == [".metadata", "__0_0.distcp"]
    assert described["name"] == "global"
    manifest = folder.read(3)
    assert manifest.has_digests
    folder.verify(manifest, "global")


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o027, 0o640)])
def test_files_have_the_modes_that_the_umask_leaves(one_rank: None, tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        folder = save(tmp_path, {"weight": torch.ones(3), "note": "text"})
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in folder.root.rglob("*")}
    assert len(modes) == 6
    assert {path: seen for path, seen in modes.items() if seen != (0o777 & ~mask if path.is_dir() else mode)} == {}
