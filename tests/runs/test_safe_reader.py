"""A part of a checkpoint is read as data: what it holds comes back, and nothing in it is executed."""

import ast
import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata

import muloco
from muloco.runs import safe_reader
from muloco.runs.safe_reader import UnreadablePart

from ..hostile import GADGETS, Call, hide_in_metadata, saved

STATE = {
    "anchor": {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)},
    "count": torch.tensor(7),
    "plain": {"text": "é", "pair": (1, 2.5), "none": None, "list": [True, 3]},
}


def written(folder: Path, state: dict | None = None) -> Path:
    dcp.save(STATE if state is None else state, checkpoint_id=folder, no_dist=True)
    return folder


def zeros(value: object) -> object:
    if isinstance(value, dict):
        return {name: zeros(item) for name, item in value.items()}
    return torch.zeros_like(value) if isinstance(value, torch.Tensor) else None


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    part = written(tmp_path / "part")
    safe_reader.check(part)
    found: dict = zeros(STATE)  # type: ignore[assignment]
    safe_reader.load(found, part, no_dist=True)
    assert found["plain"] == STATE["plain"]
    assert torch.equal(found["count"], STATE["count"])  # type: ignore[arg-type]
    for name, tensor in STATE["anchor"].items():  # type: ignore[union-attr]
        assert torch.equal(found["anchor"][name], tensor) and found["anchor"][name].dtype == tensor.dtype


def test_metadata_says_what_torchs_own_reader_says(tmp_path: Path) -> None:
    part = written(tmp_path / "part")
    ours, theirs = safe_reader.read_metadata(part), dcp.FileSystemReader(part).read_metadata()
    assert ours.state_dict_metadata == theirs.state_dict_metadata and len(ours.state_dict_metadata) > 6
    assert ours.storage_data == theirs.storage_data
    assert [index.index for index in ours.storage_data] == [index.index for index in theirs.storage_data]


@pytest.mark.parametrize("name", GADGETS)
def test_an_object_in_the_metadata_is_refused_and_does_nothing(tmp_path: Path, name: str) -> None:
    part, proof = written(tmp_path / "part"), tmp_path / "proof"
    hide_in_metadata(part, GADGETS[name](proof))
    for read in (safe_reader.check, lambda part: safe_reader.load(zeros(STATE), part, no_dist=True)):  # type: ignore[arg-type]
        with pytest.raises(UnreadablePart, match=r"\.metadata cannot be read as the metadata .*: it names"):
            read(part)
    assert not proof.exists()
    dcp.FileSystemReader(part).read_metadata()
    assert proof.exists(), "it would not have done anything anyway"


@pytest.mark.parametrize("name", GADGETS)
def test_an_object_among_the_values_is_refused_and_does_nothing(tmp_path: Path, name: str) -> None:
    proof = tmp_path / "proof"
    part = written(tmp_path / "part", {"values": {"step": 1, "place": GADGETS[name](proof)}})
    with pytest.raises(UnreadablePart, match=r"values.place cannot be read as data: .+") as refused:
        safe_reader.check(part)
    assert "\n" not in str(refused.value)
    with pytest.raises(UnreadablePart, match="cannot be loaded: .+") as refused:
        safe_reader.load({"values": {"step": 0, "place": None}}, part, no_dist=True)
    assert "\n" not in str(refused.value) and not proof.exists()
    dcp.load({"values": {"step": 0, "place": None}}, checkpoint_id=part, no_dist=True)
    assert proof.exists(), "it would not have done anything anyway"


def test_an_object_in_the_place_of_a_tensor_is_refused_and_does_nothing(tmp_path: Path) -> None:
    part, proof = written(tmp_path / "part", {"weight": torch.zeros(4000)}), tmp_path / "proof"
    payload = saved(Call(os.mkdir, str(proof)))
    (place,) = safe_reader.read_metadata(part).storage_data.values()
    file = part / place.relative_path
    metadata: Metadata = pickle.loads((part / ".metadata").read_bytes())
    next(iter(metadata.storage_data.values())).length = len(payload)
    (part / ".metadata").write_bytes(pickle.dumps(metadata))
    file.write_bytes(payload)
    with pytest.raises(UnreadablePart, match="cannot be loaded"):
        safe_reader.load({"weight": torch.zeros(4000)}, part, no_dist=True)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(("os", "system"), ("builtins", "eval"), ("builtins", "__import__"), ("_codecs", "encode")),
        *(("operator", "attrgetter"), ("functools", "partial"), ("torch", "load"), ("torch", "tensor")),
        *(("torch", "os.system"), ("torch", "float32.__class__"), ("torch", "storage._load_from_bytes")),
        *(("torch.distributed.checkpoint.metadata", "torch"), ("torch.distributed.checkpoint.metadata", "os.system")),
        *(
            ("torch.distributed.checkpoint.filesystem", "FileSystem"),
            ("pathlib", "Path"),
            ("collections", "OrderedDict"),
        ),
    ],
)
def test_no_other_name_is_known(tmp_path: Path, module: str, name: str) -> None:
    (tmp_path / ".metadata").write_bytes(b"\x80\x04" + text(module) + text(name) + b"\x93.")
    with pytest.raises(UnreadablePart, match=f"it names {module}.{name}, which does not occur in checkpoints"):
        safe_reader.read_metadata(tmp_path)


def text(value: str) -> bytes:
    """Pushes it."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def test_torchs_classes_stay_as_they_are(tmp_path: Path) -> None:
    """A pickle can set attributes of what it names; here, and of the class itself."""
    module = "torch.distributed.checkpoint.metadata"
    for name in ("Metadata", "TensorProperties", "_MEM_FORMAT_ENCODING"):
        changes = b"N" + b"}" + text("__setstate__") + b"K\x01" + b"s" + b"\x86"  # (None, {"__setstate__": 1})
        (tmp_path / ".metadata").write_bytes(b"\x80\x04" + text(module) + text(name) + b"\x93" + changes + b"b.")
        before = dict(vars(getattr(torch.distributed.checkpoint.metadata, name)))
        with pytest.raises(UnreadablePart):
            safe_reader.read_metadata(tmp_path)
        assert dict(vars(getattr(torch.distributed.checkpoint.metadata, name))) == before


def replaced(**changes: object) -> Metadata:
    """The metadata of one tensor, with another place."""
    metadata = dcp.metadata.Metadata(
        {"w": dcp.metadata.TensorStorageMetadata(dcp.metadata.TensorProperties(), torch.Size([1]), [])}
    )
    place = dcp.filesystem._StorageInfo("__0_0.distcp", 0, 4)
    for name, value in changes.items():
        setattr(place, name, value)
    metadata.storage_data = {dcp.metadata.MetadataIndex("w"): place}
    return metadata


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", "EOFError|Ran out of input"),
        (b"\0" * 300, "invalid load key"),
        (pickle.dumps(replaced())[:100], "truncated|Ran out"),
        (pickle.dumps({"a": 1}), "another object in the place of Metadata"),
        (pickle.dumps(replaced(relative_path="../secret")), r"refers to the file '\.\./secret'"),
        (pickle.dumps(replaced(relative_path="/etc/passwd")), "refers to the file '/etc/passwd'"),
        (pickle.dumps(replaced(relative_path="..")), r"refers to the file '\.\.'"),
        (pickle.dumps(replaced(offset=-1)), "-1 is not a number"),
        (pickle.dumps(replaced(length=2.5)), "2.5 is not a number"),
        (pickle.dumps(replaced(transform_descriptors=["zstd"])), "its files are transformed"),
        (b"\x80\x04\x8c\x01aQ.", "refers to an object outside the file"),
    ],
)
def test_damaged_metadata_is_refused_in_one_line(tmp_path: Path, contents: bytes, reason: str) -> None:
    (tmp_path / ".metadata").write_bytes(contents)
    with pytest.raises(UnreadablePart, match=reason) as refused:
        safe_reader.read_metadata(tmp_path)
    assert "\n" not in str(refused.value)


def test_nothing_else_in_muloco_reads_pickles() -> None:
    """Every checkpoint goes through this reader, and every torch.load takes weights only."""
    root, found = Path(muloco.__file__).parent, []
    for file in root.rglob("*.py"):
        if file.name == "safe_reader.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            weights_only = any(
                word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords
            )
            if called.endswith(("dcp.load", "FileSystemReader", "pickle.load", "pickle.loads", "Unpickler")) or (
                called == "torch.load" and not weights_only
            ):
                found.append(f"{file.relative_to(root)}:{node.lineno}: {called}")
    assert found == []
