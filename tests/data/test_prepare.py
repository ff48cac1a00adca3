import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from muloco.data import corpus as corpus_module
from muloco.data.corpus import Corpus, Document, load_corpus
from muloco.data.prepare import default_cache, prepare
from muloco.data.prepared import DamagedCacheError, Prepared, read_prepared, token_type

TEXTS = [
    f"Der Käfer <|end_of_text|> {number} krabbelt über die Straße {'und weiter ' * number}\n" for number in range(60)
]
VOCAB = 300


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    corpus = Corpus("tiny", tuple(Document("", text) for text in TEXTS))
    monkeypatch.setitem(corpus_module._CORPORA, "tiny", lambda: corpus)
    return corpus


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
    prepared = prepare("tiny", VOCAB, tmp_path)
    for split in ("train", "validation"):
        texts = [document.text for document in tiny.split(split)]
        assert decoded(prepared, split) == texts and texts
        tokens, offsets = prepared.open(split)
        assert tokens.dtype == np.uint16 and offsets.dtype == np.int64
        assert prepared.tokens[split] == len(tokens)
        assert prepared.sizes[split].documents == len(texts) == len(offsets) - 1
        assert prepared.characters[split] == len("".join(texts))
        assert prepared.bytes[split] == len("".join(texts).encode()) > prepared.characters[split]
    assert (prepared.corpus_sha256, prepared.vocab_size) == (tiny.sha256, VOCAB)


def test_wide_vocabularies_need_uint32() -> None:
    assert (token_type(65536), token_type(65537)) == (np.uint16, np.uint32)


def test_the_second_call_reads_the_cache(tiny: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare("tiny", VOCAB, tmp_path)
    monkeypatch.setattr("muloco.data.prepare.train_tokenizer", None)
    assert prepare("tiny", VOCAB, tmp_path) == first
    assert list(tmp_path.iterdir()) == [first.folder]


def test_vocabulary_and_corpus_have_entries_of_their_own(
    tiny: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {prepare("tiny", VOCAB, tmp_path).folder, prepare("tiny", VOCAB - 1, tmp_path).folder}
    monkeypatch.setitem(corpus_module._CORPORA, "tiny", lambda: Corpus("tiny", tiny.documents[:-1]))
    folders.add(prepare("tiny", VOCAB, tmp_path).folder)
    assert len(folders) == 3


def test_a_failure_leaves_nothing_behind(tiny: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size is 10"):
        prepare("tiny", 10, tmp_path)
    assert not list(tmp_path.iterdir())


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MULOCO_CACHE", raising=False)
    assert default_cache() == Path("/home/ada/.cache/muloco")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_cache() == Path("/caches/muloco")
    monkeypatch.setenv("MULOCO_CACHE", "/data")
    assert default_cache() == Path("/data")


RACER = """
import logging, sys, time
from pathlib import Path
from muloco.data import corpus, prepare

logging.basicConfig(level=logging.INFO)
cache, me = Path(sys.argv[1]), sys.argv[2]
documents = tuple(corpus.Document("", f"line {number} of many lines " * 9) for number in range(80))
corpus._CORPORA["tiny"] = lambda: corpus.Corpus("tiny", documents)
fill = prepare._fill

def fill_and_wait(*arguments):
    fill(*arguments)
    (cache / f"{me}.done").touch()
    for _ in range(600):
        if len(list(cache.glob("*.done"))) == 2:
            return
        time.sleep(0.05)
    sys.exit("the other process did not come")

prepare._fill = fill_and_wait
prepared = prepare.prepare("tiny", 270, cache)
assert "torch" not in sys.modules
sys.stdout.write(str(prepared.folder))
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Both have finished their draft before either moves it into place: one wins, the other takes what is there."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    results = [racer.communicate(timeout=60) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], results
    folders = {out for out, _ in results}
    assert len(folders) == 1
    assert sum("another process prepared" in log for _, log in results) == 1
    read_prepared(Path(folders.pop()))
    assert not list(tmp_path.glob(".preparing-*"))


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def truncate(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-8])


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


def test_prepare_refuses_a_damaged_cache_and_recovers_once_deleted(tiny: Corpus, tmp_path: Path) -> None:
    folder = prepare("tiny", VOCAB, tmp_path).folder
    (folder / "train.offsets.npy").unlink()
    with pytest.raises(DamagedCacheError, match=re.escape(str(folder))):
        prepare("tiny", VOCAB, tmp_path)
    shutil.rmtree(folder)
    assert prepare("tiny", VOCAB, tmp_path).folder == folder


def test_missing_folder_and_split(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no prepared corpus at .*nowhere"):
        read_prepared(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no split 'test'; it has train, validation"):
        read_prepared(folder).open("test")


def test_the_embedded_corpus_for_real(tmp_path: Path) -> None:
    prepared = prepare("embedded", 2048, tmp_path)
    corpus = load_corpus("embedded")
    assert prepared.corpus_sha256 == corpus.sha256
    assert decoded(prepared, "validation") == [document.text for document in corpus.split("validation")]
    assert prepared.sizes["train"].documents == len(corpus.split("train"))
    assert prepared.bytes["train"] == sum(len(document.text.encode()) for document in corpus.split("train"))
    for split in ("train", "validation"):
        assert 2.5 < prepared.bytes[split] / prepared.tokens[split] < 4.5
    tokens, _ = prepared.open("train")
    assert tokens.max() == 2047
