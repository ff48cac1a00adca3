"""Weights in safetensors files: shards, and what is refused."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from muloco.model.weights_folder import INDEX, SINGLE, WeightsFolder, write_weights

TENSORS = {f"t{i}": torch.full((i + 1, 4), float(i)) for i in range(5)}  # 16 to 80 bytes
SIZES = {name: tensor.nbytes for name, tensor in TENSORS.items()}


@pytest.mark.parametrize(("largest", "files"), [(10**6, 1), (100, 3), (1, 5)])
def test_all_tensors_come_back(tmp_path: Path, largest: int, files: int) -> None:
    write_weights(tmp_path, SIZES, TENSORS.items(), largest=largest)
    written = sorted(tmp_path.glob("*.safetensors"))
    assert len(written) == files and (tmp_path / INDEX).exists() == (files > 1)
    peer = {name: tensor for file in written for name, tensor in load_file(file).items()}
    assert peer.keys() == TENSORS.keys()
    found = WeightsFolder(tmp_path)
    assert found.shapes == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    for name, tensor in TENSORS.items():
        assert torch.equal(found.read(name), tensor) and torch.equal(peer[name], tensor)
    if files > 1:
        index = json.loads((tmp_path / INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(SIZES.values())
        assert all(name in load_file(tmp_path / title) for name, title in index["weight_map"].items())


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no weights"):
        WeightsFolder(tmp_path)
    write_weights(tmp_path, SIZES, TENSORS.items(), largest=10**6)
    whole = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="cut off .*file not fully covered"):
        WeightsFolder(tmp_path)
    for damaged in (b"<html>", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 8) + b'{"a": {}}', b""):
        (tmp_path / SINGLE).write_bytes(damaged + b"   ")
        with pytest.raises(ValueError, match="no safetensors file"):
            WeightsFolder(tmp_path)
    for damaged in ("", "[]", "{}", '{"weight_map": ["a"]}'):
        (tmp_path / INDEX).write_text(damaged)
        with pytest.raises(ValueError, match="is damaged, or not an index of weights"):
            WeightsFolder(tmp_path)


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o027])
def test_files_are_as_open_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_weights(tmp_path, SIZES, TENSORS.items(), largest=100)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}
