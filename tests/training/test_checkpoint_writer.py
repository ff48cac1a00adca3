"""The metadata of a written part, with every supported torch."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from muloco.training.checkpoint_folder import CheckpointFolder, Save
from muloco.training.checkpoint_writer import CheckpointWriter


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("telling", [True, False])
def test_the_manifest_has_every_file_with_its_bytes(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, telling: bool
) -> None:
    """`telling`: whether `dcp.save` returns where it has written, which it does not do in torch 2.11."""
    finish = dcp.FileSystemWriter.finish
    if not telling:
        monkeypatch.setattr(
            dcp.FileSystemWriter,
            "finish",
            lambda self, metadata, results: finish(self, dataclasses.replace(metadata), results),
        )
    folder = CheckpointFolder(tmp_path / "checkpoint")
    save = Save(step=3, attempt=1, history="h", parts=["global"])
    writer = CheckpointWriter(folder, asynchronous=False, keep=0)
    writer.begin(save, {"global": {"weight": torch.arange(1000.0), "note": "text"}})
    writer.finish()
    writer.close()
    part = folder.part(3, "global")
    there = {path.name: path.stat().st_size for path in part.iterdir() if path.name != "part.json"}
    assert json.loads((part / "part.json").read_text())["files"] == there and len(there) == 2
    assert folder.newest()[0] is not None
