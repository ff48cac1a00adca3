"""Damage in the cache is noticed, or changes nothing."""

import itertools
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from muloco.data.cache import make_once
from muloco.data.checksums import write_checksums
from muloco.data.corpus import Corpus, Document
from muloco.data.errors import DamagedCacheError
from muloco.data.loader import PackedDataLoader
from muloco.data.prepare import Part, open_tokenizer, prepare_source
from muloco.data.prepared import Prepared, read_prepared
from muloco.data.sources import open_source


def contents(folder: Path) -> list[list[int]]:
    """Returns everything that training reads from a folder, and its identity."""
    config = PackedDataLoader.Config(folders=(str(folder),), seed=0)
    loader = PackedDataLoader(config, dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=16, local_batch_size=2)
    prepared = read_prepared(folder)
    batches = itertools.islice(loader, 8)  # more than an epoch
    identity = [prepared.corpus_sha256, prepared.tokenizer_identity, prepared.sizes]
    return [*(inputs["input"].tolist() + labels.tolist() for inputs, labels in batches), identity]


def flip(file: Path, random_: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
    file.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        *("meta.json", "train.tokens.npy", "train.offsets.npy", "validation.tokens.npy", "sha256.json"),
        *("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "verified.json"),
    ],
)
def test_a_flipped_bit_is_noticed_or_harmless(folder: Path, name: str) -> None:
    write_checksums(folder)
    expected, content = contents(folder), (folder / name).read_bytes()
    random_, noticed = random.Random(name), 0
    for _ in range(40):
        flip(folder / name, random_)
        try:
            assert contents(folder) == expected
        except DamagedCacheError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            noticed += 1
        (folder / name).write_bytes(content)
    assert noticed == 0 if name == "verified.json" else noticed > 5


def test_a_large_array_that_is_not_compared_gives_no_token_beyond_the_vocabulary(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("muloco.data.prepared.SMALL_BYTES", 0)
    tokens = np.load(folder / "train.tokens.npy", mmap_mode="r+")
    tokens[20] ^= 1 << 31
    tokens.flush()
    with pytest.raises(DamagedCacheError, match="a token that is not in the vocabulary"):
        contents(folder)


@pytest.mark.parametrize("damage", [[0, 9, 5, 20], [0, 9, 9, 20]])
def test_offsets_have_to_rise(folder: Path, monkeypatch, damage: list[int]) -> None:
    monkeypatch.setattr("muloco.data.prepared.SMALL_BYTES", 0)
    offsets = np.load(folder / "train.offsets.npy")
    offsets[: len(damage)] = damage
    np.save(folder / "train.offsets.npy", offsets)
    with pytest.raises(DamagedCacheError, match=r"the offsets in train.offsets.npy do not increase"):
        read_prepared(folder)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the embedded corpus."""
    corpus = Corpus("embedded", tuple(Document("", f"Satz {number} von vielen") for number in range(60)))
    monkeypatch.setattr("muloco.data.sources.embedded_corpus", lambda: corpus)


def prepared_from(tmp_path: Path) -> Prepared:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(100)))
    os.utime(tmp_path / "a.jsonl", (1, 1))
    tokenizer = open_tokenizer("embedded", 260, tmp_path / "cache")
    source = open_source(str(tmp_path / "a.jsonl"), "text")
    return prepare_source(source, tokenizer, part=Part.TRAIN, cache=tmp_path / "cache")


def test_large_arrays_are_compared_where_they_are_new_or_changed(tiny, tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr("muloco.data.prepared.SMALL_BYTES", 0)
    caplog.set_level("INFO")
    tokens = prepared_from(tmp_path).folder / "train.tokens.npy"
    prepared_from(tmp_path)
    assert "comparing" not in caplog.text, "this machine has just written them"
    content = tokens.read_bytes()
    tokens.write_bytes(content[:-1] + b"\x07")
    with pytest.raises(DamagedCacheError, match="train.tokens.npy or train.offsets.npy has been changed"):
        prepared_from(tmp_path)
    tokens.write_bytes(content)
    caplog.clear()
    for _ in range(3):
        prepared_from(tmp_path)
    assert caplog.text.count("comparing") == 1


def test_a_damaged_tokenizer_of_the_cache_is_noticed(tiny, tmp_path: Path) -> None:
    folder = open_tokenizer("embedded", 260, tmp_path).folder
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"B"', '"\\u0042"'))
    with pytest.raises(DamagedCacheError, match=f"tokenizer.json has been changed; delete the folder {folder}"):
        open_tokenizer("embedded", 260, tmp_path)
    shutil.rmtree(folder)
    open_tokenizer("embedded", 260, tmp_path)


def test_a_planted_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "cache" / ".locks").mkdir(parents=True)
    (tmp_path / "cache" / ".locks" / "entry").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="cannot be written"):
        make_once(tmp_path / "cache" / "entry", lambda folder: None)
    assert (tmp_path / "precious").read_text() == "kept"
