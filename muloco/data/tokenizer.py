"""A byte-level BPE tokenizer, trained on a corpus and stored as Hugging Face and torchtitan read it."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from muloco.data.corpus import Corpus

BOS = "<|begin_of_text|>"
EOS = "<|end_of_text|>"
BOS_ID, EOS_ID = 0, 1  # special tokens come first
SMALLEST_VOCABULARY = 256 + 2  # every byte, BOS and EOS


def train_tokenizer(corpus: Corpus, vocab_size: int, folder: Path) -> Tokenizer:
    """Train a tokenizer on the train split of `corpus` and write tokenizer.json and tokenizer_config.json.

    Equal arguments give equal files. Any text survives encoding and decoding, since every byte is a token. The
    tokenizer adds no special tokens of its own accord: who wants BOS (id 0) and EOS (id 1) says so.

    Args:
        corpus: only its train split is read.
        vocab_size: number of ids, special tokens included.
        folder: created if need be.

    Raises:
        ValueError: `vocab_size` is too small for all bytes, or larger than what the corpus has pairs to merge for.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(f"vocab_size is {vocab_size}; it must be at least {SMALLEST_VOCABULARY} (bytes, BOS, EOS)")
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
        raise ValueError(f"corpus {corpus.name!r} yields only {size} tokens; vocab_size is {vocab_size}, take less")

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer
