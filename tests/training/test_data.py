"""Data that does not suffice for all workers is refused before the start."""

import json
from pathlib import Path

import pytest

from muloco.data.corpus import Document
from muloco.errors import UserError
from muloco.settings.config import Config
from muloco.training.data import prepare_data


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def corpus(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 documents for training and some that are held out, in a file."""
    monkeypatch.setenv("MULOCO_CACHE", str(cache))
    texts = (f"document {number} " + "one two three " * 20 for number in range(1000))
    kept: list[str] = []
    trains = 0
    for text in texts:
        if (trains_too := Document("", text).split == "train") and trains == 30:
            continue
        kept.append(text)
        trains += trains_too
        if trains == 30 and len(kept) > 33:
            break
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in kept))
    return path


def config(corpus: Path, *, workers: int, ranks: int, ahead: bool) -> Config:
    chosen = Config()
    chosen.data.corpus, chosen.data.prepare, chosen.data.vocabulary = str(corpus), ahead, 512
    chosen.fault_tolerance.group_size = workers
    chosen.parallelism.data_parallel_shard_degree = ranks
    chosen.training.seq_len, chosen.validation.sequences = 16, 2
    return chosen


def test_more_shares_than_documents_are_refused(corpus: Path) -> None:
    with pytest.raises(UserError, match="corpus.jsonl has 30 documents to train on, fewer than the 64 shares"):
        prepare_data(config(corpus, workers=32, ranks=2, ahead=True))
    prepare_data(config(corpus, workers=15, ranks=2, ahead=True))


def test_a_share_without_text_in_a_stream_is_refused(corpus: Path, tmp_path: Path) -> None:
    """Records are dealt before it is known which of them are held out or hold no text."""
    records = corpus.read_text().splitlines()
    train = [line for line in records if Document("", json.loads(line)["text"]).split == "train"]
    held_out = [line for line in records if line not in train]
    assert held_out
    stream = tmp_path / "stream.jsonl"
    stream.write_text("\n".join([*train[:3], held_out[0], *train[3:7], '{"text": ""}', *held_out]) + "\n")
    prepare_data(config(stream, workers=3, ranks=1, ahead=False))
    with pytest.raises(UserError, match="share 3 of 4 finds no text in .*stream.jsonl"):
        stream.write_text("\n".join([*train[:3], held_out[0], *held_out]) + "\n")
        prepare_data(config(stream, workers=4, ranks=1, ahead=False))


def test_a_cache_that_cannot_be_used_is_named_in_one_line(
    corpus: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(corpus, workers=1, ranks=1, ahead=True)
    (entry,) = {one.folder for one in prepare_data(chosen).prepared}
    tokens = (entry / "train.tokens.npy").read_bytes()
    (entry / "train.tokens.npy").write_bytes(tokens[:100])
    with pytest.raises(UserError, match=f"damaged prepared corpus: .*delete the folder {entry}"):
        prepare_data(chosen)
    (entry / "train.tokens.npy").write_bytes(tokens)
    monkeypatch.setenv("MULOCO_CACHE", str(corpus / "below a file"))
    with pytest.raises(UserError, match="the cache .*below a file cannot be written: .*MULOCO_CACHE"):
        prepare_data(chosen)
