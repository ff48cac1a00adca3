import hashlib
import logging
import sysconfig
from pathlib import Path

import pytest

from muloco.data import corpus as module
from muloco.data.corpus import Corpus, Document, embedded_corpus
from muloco.data.prepare import prepare
from muloco.settings.data import ResolvedData


@pytest.fixture(scope="module")
def embedded() -> Corpus:
    return embedded_corpus()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of our own."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def write(library: Path, name: str, data: bytes = b"import this\n") -> None:
    path = library / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_embedded_corpus_is_the_standard_library(embedded: Corpus) -> None:
    names = {document.name for document in embedded.documents}
    assert {"os.py", "asyncio/events.py", "json/decoder.py", "encodings/utf_8.py"} <= names
    assert len(names) == len(embedded.documents) > 400
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("os.py", "json/decoder.py"):
        (text,) = (document.text for document in embedded.documents if document.name == name)
        assert text == (library / name).read_text(encoding="utf-8")


def test_embedded_corpus_leaves_out_tests_tables_and_the_build(embedded: Corpus) -> None:
    for document in embedded.documents:
        folders = document.name.split("/")[:-1]
        assert not {"test", "tests", "site-packages", "idle_test", "lib2to3"} & set(folders), document.name
        assert "_sysconfigdata" not in document.name and not document.name.startswith("config-")
        assert "gencodec" not in document.text
        assert not document.name.startswith(
            ("encodings/cp125", "encodings/iso8859", "encodings/mac_", "encodings/koi8")
        )


def test_no_document_dominates(embedded: Corpus) -> None:
    sizes = [len(document.text.encode()) for document in embedded.documents]
    assert 7e6 < sum(sizes) < 15e6
    assert max(sizes) <= module.MAX_DOCUMENT_BYTES
    assert max(sizes) < 0.0115 * sum(sizes)


def test_splits_are_disjoint_complete_and_by_hash(embedded: Corpus) -> None:
    train, validation = embedded.split("train"), embedded.split("validation")
    assert not {document.sha256 for document in train} & {document.sha256 for document in validation}
    assert sorted(map(id, train + validation)) == sorted(map(id, embedded.documents))
    share = sum(len(document.text) for document in validation) / sum(len(d.text) for d in embedded.documents)
    assert 0.01 < share < 0.1


def test_split_of_a_text_never_changes() -> None:
    """0xff.../2**32 is in train, the few hashes below 0.05 are in validation: fixed for all time."""
    texts = [f"text {number}\n" for number in range(2000)]
    expected = [text for text in texts if hashlib.sha256(text.encode()).digest()[:4] < bytes.fromhex("0ccccccd")]
    corpus = Corpus("numbers", tuple(Document("", text) for text in texts))
    assert {document.text for document in corpus.split("validation")} == set(expected)
    assert 60 < len(expected) < 140
    smaller = Corpus("fewer", tuple(Document("renamed", text) for text in texts[::2]))
    assert {document.text for document in smaller.split("validation")} == set(expected) & set(texts[::2])


def test_order_and_digest_depend_on_the_texts_alone() -> None:
    documents = tuple(Document(f"{number}", f"text {number}") for number in range(50))
    corpus, reversed_corpus = Corpus("a", documents), Corpus("b", documents[::-1])
    assert corpus.documents == reversed_corpus.documents != documents
    assert corpus.sha256 == reversed_corpus.sha256
    assert corpus.sha256 != Corpus("c", documents[:-1]).sha256


def test_unknown_splits_are_refused(embedded: Corpus) -> None:
    with pytest.raises(ValueError, match=r"no split 'test'; it has train, validation"):
        embedded.split("test")


def test_bad_files_are_skipped_and_counted(library: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(library, "good.py", "print('größer')\n".encode())
    write(library, "latin.py", "# größer\n".encode("latin-1"))
    write(library, "package/__init__.py", b"")
    write(library, "package/blank.py", b"\n \n")
    write(library, "package/tests/test_it.py")
    write(library, "site-packages/numpy.py")
    write(library, "encodings/cp037.py", b"decoding_table = 'abc'\n")
    write(library, "notes.txt")
    (library / "broken.py").symlink_to(library / "nowhere.py")
    assert [(document.name, document.text) for document in embedded_corpus().documents] == [
        ("good.py", "print('größer')\n")
    ]
    assert "skipped 2 unreadable and 2 empty files" in caplog.text


def test_a_run_reads_it_once(library: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """For the data and for the tokenizer that is trained on it."""
    caplog.set_level(logging.INFO)
    for number in range(60):
        write(library, f"{number}.py", f"print({number}, 'and more', {number**3})\n".encode())
    prepare(ResolvedData(prepare=True, vocabulary=300), held_out_sequences=1, seq_len=8, cache=tmp_path / "cache")
    said = [message for message in caplog.messages if message.startswith("embedded corpus: ")]
    assert said == [f"embedded corpus: 60 files of {library}"]


def test_long_files_are_cut_at_a_line_end(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", 20)
    write(library, "fits.py", b"a = 1\nb = 2\nc = 345\n")
    write(library, "long.py", "ä = 1\nb = 2\nx = 'ääääääää'\n".encode())
    texts = {document.name: document.text for document in embedded_corpus().documents}
    assert texts == {"fits.py": "a = 1\nb = 2\nc = 345\n", "long.py": "ä = 1\nb = 2\n"}


def test_a_python_without_sources_is_refused(library: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no Python sources under {library}"):
        embedded_corpus()
