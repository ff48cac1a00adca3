import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from muloco._torchtitan import HuggingFaceTokenizer
from muloco.data.corpus import Corpus, Document
from muloco.data.tokenizer import DocumentTokenizer, train_tokenizer
from muloco.errors import UserError

from ..patience import PATIENCE

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
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env=environment, timeout=PATIENCE)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_impossible_vocabularies_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size is 257; it must be at least 258"):
        train_tokenizer(corpus, 257, tmp_path)
    with pytest.raises(ValueError, match=r"corpus 'cats' yields only \d+ tokens; vocab_size is 5000"):
        train_tokenizer(corpus, 5000, tmp_path)
    assert not list(tmp_path.iterdir())


LLAMA = {"<|begin_of_text|>": 300, "<|end_of_text|>": 301}


def make_folder(folder: Path, specials: dict[str, int] = LLAMA, config: dict | None = None, **files: dict) -> Path:
    """Words, some special tokens with ids that leave a hole, and all that a tokenizer may do of its own accord."""
    folder.mkdir(parents=True)
    words = {word: number for number, word in enumerate(["?", "the", "cat", "sat", "on", "mat"])}
    tokenizer = Tokenizer(models.WordLevel(words | specials, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in specials])
    if "<|begin_of_text|>" in specials:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 300)]
        )
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in {"tokenizer_config": config, **files}.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_documents_are_bos_text_eos_and_nothing_else(tmp_path: Path) -> None:
    """No template, no truncation, no padding; a special token's name in a text is text."""
    tokenizer = DocumentTokenizer(make_folder(tmp_path / "t"))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (300, 301, 302)
    one, two = tokenizer.encode(["the cat sat on the mat", "cat <|end_of_text|> mat"])
    assert one.tolist() == [300, 1, 2, 3, 4, 1, 5, 301]
    assert two[0] == 300 and two[-1] == 301 and two[1] == 2 and two[-2] == 5


SPECIALS = {"<s>": 300, "</s>": 301, "<pad>": 302}


@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({"bos_token": "<s>", "eos_token": "</s>"}, {}),
        ({"bos_token": {"content": "<s>", "special": True}, "eos_token": {"content": "</s>"}}, {}),
        (None, {"special_tokens_map": {"bos_token": "<s>", "eos_token": {"content": "</s>"}}}),
        ({"bos_token": None}, {"special_tokens_map": {"bos_token": "<s>", "eos_token": "</s>"}}),
    ],
)
def test_bos_and_eos_are_found_where_tokenizers_name_them(tmp_path: Path, config, files) -> None:
    tokenizer = DocumentTokenizer(make_folder(tmp_path / "t", SPECIALS, config, **files))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (300, 301, 303)
    tokenizer.copy_to(tmp_path / "copy")
    copy = DocumentTokenizer(tmp_path / "copy")
    assert (copy.bos_id, copy.eos_id) == (300, 301)
    titan = HuggingFaceTokenizer(tokenizer_path=str(tmp_path / "copy"))
    assert (titan.bos_id, titan.eos_id) == (300, 301)


def test_tokenizers_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(UserError, match=message):
            DocumentTokenizer(path)

    refused(
        make_folder(tmp_path / "a", SPECIALS), 'names no bos_token: .*add "bos_token": "..." to its tokenizer_config'
    )
    refused(make_folder(tmp_path / "b", SPECIALS, {"bos_token": "<s>"}), "names no eos_token")
    refused(
        make_folder(tmp_path / "c", SPECIALS, {"bos_token": "<bos>"}), "bos_token '<bos>' of its settings is not in"
    )
    refused(tmp_path / "nowhere", "there is no tokenizer folder .*nowhere; data.tokenizer is `embedded` or a folder")
    old = tmp_path / "original"
    old.mkdir()
    refused(old, "holds no tokenizer.json; it holds nothing")
    (old / "tokenizer.model").write_bytes(b"IQ== 0\n")
    refused(old, "tokenizer.model is in the format of tiktoken or SentencePiece, .*tokenizer.json and tokenizer_config")
    refused(old / "tokenizer.model", "tokenizer.model is in the format of tiktoken .*beside the folder original/")
    refused(tmp_path / "a" / "tokenizer.json", "data.tokenizer is a folder with tokenizer.json in it; .* is a file")
    (old / "tokenizer.json").write_text("{}")
    refused(old, "tokenizer.json is not a Hugging Face tokenizer")
    broken = make_folder(tmp_path / "d")
    (broken / "tokenizer_config.json").write_text("{")
    refused(broken, "tokenizer_config.json is not JSON")


def test_eos_begins_documents_where_the_settings_say_that_there_is_no_bos(tmp_path: Path) -> None:
    tokenizer = DocumentTokenizer(make_folder(tmp_path / "t", SPECIALS, {"bos_token": None, "eos_token": "</s>"}))
    assert tokenizer.encode(["cat"])[0].tolist() == [301, 2, 301]
    tokenizer.copy_to(tmp_path / "copy")
    assert DocumentTokenizer(tmp_path / "copy").bos_id == 301


def test_one_token_may_be_both(tmp_path: Path) -> None:
    config = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    tokenizer = DocumentTokenizer(make_folder(tmp_path / "t", {"<|endoftext|>": 300}, config))
    assert tokenizer.encode(["cat"])[0].tolist() == [300, 2, 300]
