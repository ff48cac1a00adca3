"""Tokenizers: any Hugging Face tokenizer.json, and a byte-level BPE trained on a corpus and stored as one."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from muloco.data.corpus import Corpus
from muloco.errors import UserError

BOS = "<|begin_of_text|>"
EOS = "<|end_of_text|>"
BOS_ID, EOS_ID = 0, 1  # special tokens come first
SMALLEST_VOCABULARY = 256 + 2  # every byte, BOS and EOS


def train_tokenizer(corpus: Corpus, vocab_size: int, folder: Path) -> Tokenizer:
    """Trains a tokenizer on the train split of a corpus and writes tokenizer.json and tokenizer_config.json.

    Equal arguments give equal files. Any text survives encoding and decoding, since every byte is a token. The
    tokenizer adds no special tokens of its own accord; callers add BOS (id 0) and EOS (id 1).

    Args:
        vocab_size: number of ids, special tokens included.

    Raises:
        UserError: `vocab_size` is too small for all bytes, or larger than what the corpus has pairs to merge for.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(f"vocab_size is {vocab_size}; it must be at least {SMALLEST_VOCABULARY} (bytes, BOS, EOS)")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in corpus.split("train")), trainer)
    if (size := tokenizer.get_vocab_size()) != vocab_size:
        raise UserError(f"corpus {corpus.name!r} yields only {size} tokens; vocab_size is {vocab_size}, take less")

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_config(folder, {"bos_token": BOS, "eos_token": EOS, "clean_up_tokenization_spaces": False})
    return tokenizer


class DocumentTokenizer:
    """Turns texts into documents: BOS, the text's tokens, EOS.

    A special token's name inside a text is text. What the tokenizer would do of its own accord (add special tokens, cut
    off, pad) is left out.

    Args:
        folder: holds tokenizer.json, of any kind; BOS and EOS are named in tokenizer_config.json (`bos_token`,
            `eos_token`) or special_tokens_map.json, or are Llama 3's. If the settings say that there is no BOS (null),
            as Qwen's do, EOS takes its place.

    Raises:
        UserError: something of that is missing; the message says what.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        file = folder / "tokenizer.json"
        try:
            if not file.is_file():
                raise UserError(_no_tokenizer(folder))
            try:
                self._tokenizer = Tokenizer.from_file(str(file))
            except Exception as error:  # `tokenizers` raises nothing narrower
                raise UserError(f"{file} is not a Hugging Face tokenizer ({error})") from error
            self._config = _json(folder / "tokenizer_config.json")
            without_bos = self._has_no_bos()
            self.bos_id = -1 if without_bos else self._special("bos_token", BOS)
            self.eos_id = self._special("eos_token", EOS)
            if without_bos:
                self.bos_id, self._config["bos_token"] = self.eos_id, self._config["eos_token"]
        except OSError as error:
            raise UserError(f"data.tokenizer {folder} cannot be read: {error.strerror or error}") from error
        self._tokenizer.encode_special_tokens = True  # "<|end_of_text|>" inside a document is text, not the end of it
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        """One more than the largest id."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The documents of some texts, as uint32 [tokens]."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array([self.bos_id, *encoding.ids, self.eos_id], dtype=np.uint32) for encoding in encodings]

    def encode_text(self, text: str) -> list[int]:
        """The tokens of a text alone, without BOS and EOS."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens; special tokens are left out."""
        return self._tokenizer.decode(list(tokens))

    def copy_to(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, the latter with BOS and EOS in it."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / "tokenizer.json", folder / "tokenizer.json")
        _write_config(folder, self._config)

    def _has_no_bos(self) -> bool:
        """Whether the settings say that there is no BOS."""
        says_so = "bos_token" in self._config and self._config["bos_token"] is None
        return says_so and not _token(_json(self.folder / "special_tokens_map.json").get("bos_token"))

    def _special(self, key: str, usual: str) -> int:
        """The id of a special token; its name is noted in the config."""
        named = _token(self._config.get(key)) or _token(_json(self.folder / "special_tokens_map.json").get(key))
        name = named or usual
        token = self._tokenizer.token_to_id(name)
        if token is None and named:
            raise UserError(f"{self.folder}: the {key} {named!r} of its settings is not in tokenizer.json")
        if token is None:
            raise UserError(
                f"{self.folder} names no {key}: documents begin with BOS and end with EOS; add "
                f'"{key}": "..." to its tokenizer_config.json (both may be the same token)'
            )
        if self._config.get(key) is None:
            self._config[key] = name
        return token


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _no_tokenizer(folder: Path) -> str:
    old = folder if folder.is_file() else folder / "tokenizer.model"
    if old.name == "tokenizer.model" and old.exists():
        return (
            f"{old} is in the format of tiktoken or SentencePiece, which is not read; data.tokenizer is the folder "
            "with the same model's tokenizer.json and tokenizer_config.json (for Llama 3.1 they lie on the hub beside "
            "the folder original/ that holds tokenizer.model)"
        )
    if folder.is_file():
        return f"data.tokenizer is a folder with tokenizer.json in it; {folder} is a file"
    if not folder.is_dir():
        return f"there is no tokenizer folder {folder}; data.tokenizer is `embedded` or a folder with tokenizer.json"
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:8])
    return f"{folder} holds no tokenizer.json; it holds {names or 'nothing'}"


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no settings")
    return values


def _token(value: Any) -> str | None:
    """Special tokens are stored as their name or as an object with it."""
    return value.get("content") if isinstance(value, dict) else value
