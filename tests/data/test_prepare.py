import json
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from muloco.data.cache import default_cache
from muloco.data.corpus import Corpus, Document, embedded_corpus
from muloco.data.held_out import HeldOutDataLoader, bytes_per_token
from muloco.data.prepare import TrainingData, open_tokenizer, prepare_source
from muloco.data.prepare import prepare as prepare_all
from muloco.data.prepared import DamagedCacheError, Prepared, read_prepared, token_type
from muloco.data.sources import open_source
from muloco.data.tokenize import Part
from muloco.errors import UserError
from muloco.settings.data import ResolvedData

TEXTS = [
    f"Der Käfer <|end_of_text|> {number} krabbelt über die Straße {'und weiter ' * number}\n" for number in range(60)
]
VOCAB = 300


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """It stands in for the embedded corpus."""
    corpus = Corpus("embedded", tuple(Document("", text) for text in TEXTS))
    monkeypatch.setattr("muloco.data.sources.embedded_corpus", lambda: corpus)
    return corpus


def prepare(cache: Path, vocabulary: int = VOCAB) -> Prepared:
    data = prepare_all(ResolvedData(prepare=True, vocabulary=vocabulary), held_out_sequences=1, seq_len=8, cache=cache)
    (prepared,) = data.prepared
    assert data.held_out == (prepared,) and data.weights == (1.0,)
    return prepared


def decoded(prepared: Prepared, split: str) -> list[str]:
    """The texts of a split, read from the files with nothing but numpy and tokenizers."""
    tokens = np.load(prepared.folder / f"{split}.tokens.npy")
    offsets = np.load(prepared.folder / f"{split}.offsets.npy")
    tokenizer = Tokenizer.from_file(str(prepared.tokenizer_folder / "tokenizer.json"))
    texts = []
    for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
        ids = tokens[start:stop].tolist()
        assert ids[0] == 0 and ids[-1] == 1 and not {0, 1} & set(ids[1:-1])
        texts.append(tokenizer.decode(ids[1:-1]))
    assert offsets[-1] == len(tokens)
    return texts


def test_prepared_texts_are_the_corpus(tiny: Corpus, tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    for split in ("train", "validation"):
        texts = [document.text for document in tiny.split(split)]
        assert decoded(prepared, split) == texts and texts
        tokens, offsets = prepared.open(split)
        assert tokens.dtype == np.uint16 and offsets.dtype == np.int64
        assert prepared.sizes[split].tokens == len(tokens)
        assert prepared.sizes[split].documents == len(texts) == len(offsets) - 1
    assert (prepared.corpus_sha256, prepared.vocab_size) == (tiny.sha256, VOCAB)


def test_wide_vocabularies_need_uint32() -> None:
    assert (token_type(65536), token_type(65537)) == (np.uint16, np.uint32)


def test_the_second_call_reads_the_cache(tiny: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(tmp_path)
    monkeypatch.setattr("muloco.data.prepare.train_tokenizer", None)
    monkeypatch.setattr("muloco.data.prepare.tokenize", None)
    assert prepare(tmp_path) == first
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == [".locks", "embedded", "tokenizer"]


def test_vocabulary_and_corpus_have_entries_of_their_own(
    tiny: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {prepare(tmp_path).folder, prepare(tmp_path, VOCAB - 1).folder}
    monkeypatch.setattr("muloco.data.sources.embedded_corpus", lambda: Corpus("embedded", tiny.documents[:-1]))
    folders.add(prepare(tmp_path).folder)
    assert len(folders) == 3


def test_a_failure_leaves_nothing_behind(tiny: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size is 10"):
        prepare(tmp_path, 10)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MULOCO_CACHE", raising=False)
    assert default_cache() == Path("/home/ada/.cache/muloco")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_cache() == Path("/caches/muloco")
    monkeypatch.setenv("MULOCO_CACHE", "/data")
    assert default_cache() == Path("/data")


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def truncate(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-8])


def set_byte(name: str, place: int = -3):
    """The size stays, and so do the header and the last offset."""

    def set_it(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 1
        (folder / name).write_bytes(content)

    return set_it


def edit_meta(change):
    def edit(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        change(meta)
        (folder / "meta.json").write_text(json.dumps(meta))

    return edit


DAMAGES = {
    "no meta": (remove("meta.json"), "meta.json cannot be read"),
    "half a meta": (truncate("meta.json"), "meta.json cannot be read"),
    "foreign meta": (edit_meta(lambda meta: meta.clear()), "meta.json cannot be read"),
    "meta without vocabulary": (edit_meta(lambda meta: meta.pop("vocab_size")), "meta.json cannot be read"),
    "old format": (edit_meta(lambda meta: meta.update(format=0)), "meta.json is of format 0"),
    "no tokens": (remove("train.tokens.npy"), "train.tokens.npy cannot be read"),
    "half the tokens": (truncate("validation.tokens.npy"), "validation.tokens.npy cannot be read"),
    "half the offsets": (truncate("train.offsets.npy"), "train.offsets.npy cannot be read"),
    "other token count": (
        edit_meta(lambda meta: meta["sizes"]["train"].update(tokens=5)),
        r"meta.json says uint32 \[5\]",
    ),
    "other document count": (edit_meta(lambda meta: meta["sizes"]["train"].update(documents=5)), r"says int64 \[6\]"),
    "other token type": (edit_meta(lambda meta: meta.update(vocab_size=500)), "meta.json says uint16"),
    "offsets of others": (
        lambda folder: np.save(folder / "validation.offsets.npy", np.array([0, 1, 2, 3])),
        "validation.offsets.npy does not span 27 tokens",
    ),
    "other tokens": (set_byte("train.tokens.npy"), "train.tokens.npy or train.offsets.npy has been changed"),
    "other offsets": (set_byte("validation.offsets.npy", place=-13), "validation.offsets.npy has been changed"),
    "no tokenizer": (remove("tokenizer/tokenizer.json"), "tokenizer/tokenizer.json is missing"),
    "other tokenizer": (
        lambda folder: (folder / "tokenizer" / "tokenizer.json").write_text("{ }"),
        "not the one the corpus was tokenized with",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_refused(folder: Path, damage: str) -> None:
    spoil, message = DAMAGES[damage]
    read_prepared(folder)
    spoil(folder)
    with pytest.raises(
        DamagedCacheError, match=f"{message}.*delete the folder {re.escape(str(folder))} and prepare again"
    ):
        read_prepared(folder)


def test_large_files_are_compared_with_their_checksum_on_demand(folder: Path, monkeypatch) -> None:
    set_byte("train.tokens.npy")(folder)
    monkeypatch.setattr("muloco.data.prepared.SMALL_BYTES", 100)
    read_prepared(folder)
    with pytest.raises(DamagedCacheError, match="has been changed"):
        read_prepared(folder, verify=True)


def test_prepare_refuses_a_damaged_cache_and_recovers_once_deleted(tiny: Corpus, tmp_path: Path) -> None:
    folder = prepare(tmp_path).folder
    (folder / "train.offsets.npy").unlink()
    with pytest.raises(DamagedCacheError, match=re.escape(str(folder))):
        prepare(tmp_path)
    shutil.rmtree(folder)
    assert prepare(tmp_path).folder == folder


def test_missing_folder_and_split(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no prepared corpus at .*nowhere"):
        read_prepared(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no split 'test'; it has train, validation"):
        read_prepared(folder).open("test")


def test_the_embedded_corpus_for_real(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, 2048)
    corpus = embedded_corpus()
    assert prepared.corpus_sha256 == corpus.sha256
    assert decoded(prepared, "validation") == [document.text for document in corpus.split("validation")]
    assert prepared.sizes["train"].documents == len(corpus.split("train"))
    for split in ("train", "validation"):
        size = sum(len(document.text.encode()) for document in corpus.split(split))
        assert 2.5 < size / prepared.sizes[split].tokens < 4.5
    tokens, _ = prepared.open("train")
    assert tokens.max() == 2047


def write_jsonl(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def everything(
    corpus, tmp_path: Path, *, held_out_sequences: int = 2, ahead: bool = True, cache: Path | None = None, **settings
) -> TrainingData:
    names = corpus if isinstance(corpus, str) else tuple(corpus)
    data = ResolvedData(**{"corpus": names, "prepare": ahead, "vocabulary": VOCAB, **settings})
    cache = cache or tmp_path / "cache"
    return prepare_all(data, held_out_sequences=held_out_sequences, seq_len=8, cache=cache)


def test_files_are_prepared_like_any_corpus(tiny: Corpus, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("{broken\n")
    data = everything(str(tmp_path / "a.jsonl"), tmp_path)
    (prepared,) = data.prepared
    for split in ("train", "validation"):
        assert decoded(prepared, split) == [text for text in TEXTS if Document("", text).split == split]
    assert prepared.skipped == 1 and "line 61: not JSON" in (prepared.first_skipped or "")
    assert "skipped 1 that hold no text (first: " in data.description()
    with pytest.raises(UserError, match="line 61: not JSON .*; data.strict refuses it"):
        everything(str(tmp_path / "a.jsonl"), tmp_path, strict=True)
    with pytest.raises(UserError, match="line 61: not JSON .*; data.strict refuses what"):
        everything(str(tmp_path / "a.jsonl"), tmp_path, strict=True, cache=tmp_path / "other")


def test_several_processes_write_what_one_writes(tiny: Corpus, tmp_path: Path, monkeypatch) -> None:
    write_jsonl(tmp_path / "a.jsonl", [f"{number} {text}" for number in range(9) for text in TEXTS])
    (one,) = everything(str(tmp_path / "a.jsonl"), tmp_path).prepared
    monkeypatch.setattr("muloco.data.tokenize._processes", lambda source: 2)
    (two,) = everything(str(tmp_path / "a.jsonl"), tmp_path, cache=tmp_path / "other").prepared
    assert one.folder != two.folder and one.sizes["train"].documents > 400
    names = sorted(path.name for path in one.folder.iterdir() if path.is_file())
    assert {"meta.json", "train.tokens.npy", "train.offsets.npy", "sha256.json"} <= set(names)
    for name in set(names) - {"verified.json"}:  # it has times
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_memory_does_not_grow_with_the_corpus(tiny: Corpus, tmp_path: Path) -> None:
    """Of 8 MB of text, 31 MB of tokens, Python holds no more than a few batches at a time."""
    (tmp_path / "a.jsonl").write_text((json.dumps({"text": "und weiter " * 1000}) + "\n") * 700)
    tokenizer = open_tokenizer("embedded", VOCAB, tmp_path / "cache")
    source = open_source(str(tmp_path / "a.jsonl"), "text")
    tracemalloc.start()
    prepared = prepare_source(source, tokenizer, part=Part.TRAIN, cache=tmp_path / "cache")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert prepared.sizes["train"].documents == 700
    assert peak < 12e6


def test_changed_files_are_prepared_anew(tiny: Corpus, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    first = everything(str(tmp_path / "a.jsonl"), tmp_path).prepared[0]
    assert everything(str(tmp_path / "a.jsonl"), tmp_path).prepared[0] == first
    write_jsonl(tmp_path / "a.jsonl", TEXTS[::-1])
    second = everything(str(tmp_path / "a.jsonl"), tmp_path).prepared[0]
    assert second.folder != first.folder and second.corpus_sha256 != first.corpus_sha256
    assert everything(str(tmp_path / "a.jsonl"), tmp_path, vocabulary=VOCAB - 1).prepared[0].folder != second.folder


def test_mixtures_weigh_by_size_unless_told(tiny: Corpus, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    write_jsonl(tmp_path / "b.jsonl", [f"{number} {text}" for number in range(3) for text in TEXTS])
    names = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    data = everything(names, tmp_path)
    pairs = [one.sizes["train"].tokens - one.sizes["train"].documents for one in data.prepared]
    assert data.weights == tuple(pairs) == data.held_out_weights and data.held_out == data.prepared
    assert everything(names, tmp_path, weights=(1, 3)).weights == (1, 3)
    assert "25.0% of the sequences" in everything(names, tmp_path, weights=(1, 3)).description()
    streamed = everything(names, tmp_path, ahead=False)
    assert streamed.weights == tuple(Path(name).stat().st_size for name in names)
    assert [source.name for source in streamed.streamed] == list(names) and not streamed.prepared


def test_validation_may_have_a_source_of_its_own(tiny: Corpus, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    write_jsonl(tmp_path / "v.jsonl", ["Prüftext " * 9, "noch einer " * 9])
    data = everything(str(tmp_path / "a.jsonl"), tmp_path, validation=str(tmp_path / "v.jsonl"))
    assert decoded(data.prepared[0], "train") == TEXTS and list(data.prepared[0].sizes) == ["train"]
    assert decoded(data.held_out[0], "validation") == ["Prüftext " * 9, "noch einer " * 9]
    assert data.held_out_weights == (1.0,)


def test_data_that_does_not_suffice_is_refused(tiny: Corpus, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    (tmp_path / "none.jsonl").write_text("{\n")
    for ahead in (True, False):
        with pytest.raises(UserError, match=r"a.jsonl holds out \d+ sequences of 8 tokens \(about 5 %.*take fewer"):
            everything(str(tmp_path / "a.jsonl"), tmp_path, held_out_sequences=5000, ahead=ahead)
        with pytest.raises(UserError, match=r"none.jsonl holds no text.*; skipped 1 \(first: .*line 1: not JSON"):
            everything(str(tmp_path / "none.jsonl"), tmp_path, ahead=ahead)
    with pytest.raises(UserError, match="how large hf:a/b is cannot be known while it is streamed; give data.weights"):
        everything(("hf:a/b", "embedded"), tmp_path, ahead=False)


@pytest.mark.parametrize(("seq_len", "tolerance"), [(100_000, 0.0), (64, 0.02)])
def test_held_out_bytes_are_those_of_the_text(tiny: Corpus, tmp_path: Path, seq_len: int, tolerance: float) -> None:
    """Of the whole split, whose bytes and tokens are counted when it is prepared; characters that the end of a sequence
    cuts in two may count for a little more."""
    prepared = prepare(tmp_path)
    predicted = prepared.sizes["validation"].tokens - prepared.sizes["validation"].documents
    config = HeldOutDataLoader.Config(folders=(str(prepared.folder),), sequences=-(-predicted // seq_len))
    found = bytes_per_token(config, str(prepared.tokenizer_folder), seq_len=seq_len)
    text = "".join(document.text for document in tiny.split("validation"))
    assert found == pytest.approx(len(text.encode()) / predicted, rel=tolerance)
