import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from muloco._torchtitan import HuggingFaceTokenizer
from muloco.data.corpus import Corpus, Document
from muloco.data.tokenizer import train_tokenizer

TEXTS = ["the cat sat on the mat, " * 5 + f"and cat {number} on that\n" for number in range(40)]
VOCAB = 280


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus("cats", tuple(Document("", text) for text in TEXTS))


@pytest.fixture(scope="module")
def folder(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(corpus, VOCAB, folder)
    return folder


@pytest.mark.parametrize(
    "text", ["the cat", "Größe, naïve 東京 😀\t\r\n  \x00", "  def f(x):\n\n\n        return x ", ""]
)
def test_any_text_survives(folder: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_torchtitan_reads_it(folder: Path) -> None:
    tokenizer = HuggingFaceTokenizer(tokenizer_path=str(folder))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.get_vocab_size()) == (0, 1, VOCAB)
    plain = tokenizer.encode("the cat sat", add_bos=False, add_eos=False)
    assert tokenizer.encode("the cat sat", add_bos=True, add_eos=True) == [0, *plain, 1]
    assert tokenizer.encode("the cat sat") == plain
    assert len(plain) < len("the cat sat") / 2
    assert tokenizer.decode(plain) == "the cat sat"


def test_only_the_train_split_is_read(corpus: Corpus, folder: Path, tmp_path: Path) -> None:
    held_out = next(
        document
        for document in (Document("", f"zyxwvu {n} " * 500) for n in range(1000))
        if document.split == "validation"
    )
    train_tokenizer(Corpus("more", (*corpus.documents, held_out)), VOCAB, tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_training_is_deterministic_over_processes_and_threads(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from muloco.data.corpus import Corpus, Document;"
        "from muloco.data.tokenizer import train_tokenizer;"
        f"train_tokenizer(Corpus('cats', tuple(Document('', text) for text in {TEXTS!r})), {VOCAB}, Path(sys.argv[1]));"
        "assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env=environment, timeout=60)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_impossible_vocabularies_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size is 257; it must be at least 258"):
        train_tokenizer(corpus, 257, tmp_path)
    with pytest.raises(ValueError, match=r"corpus 'cats' yields only \d+ tokens; vocab_size is 5000"):
        train_tokenizer(corpus, 5000, tmp_path)
    assert not list(tmp_path.iterdir())
