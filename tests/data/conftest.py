"""A prepared folder made by hand, in which every token says which document it is of and where it stands in it."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from muloco.data.prepared import Prepared, SplitWriter, tokenizer_sha256

LENGTHS = {"train": [2, 9, 30, 3, 17, 2, 64, 5, 11, 41, 7, 2, 23, 8], "validation": [6, 2, 19]}
STRIDE = 1000  # token = STRIDE * document + place, so labels and positions can be read off the inputs
EOS_ID = 99_999


@pytest.fixture
def documents() -> dict[str, list[list[int]]]:
    """Token ids per split and document."""
    return {
        split: [[STRIDE * (1 + number) + place for place in range(length)] for number, length in enumerate(lengths)]
        for split, lengths in LENGTHS.items()
    }


@pytest.fixture
def make_folder(tmp_path: Path, documents) -> Callable[..., Path]:
    """Write the documents as a prepared folder; other digests make it another corpus or tokenizer."""

    def make(
        name: str = "prepared", *, corpus_sha256: str = "c0" * 32, tokenizer_json: str = "{}", between: bool = False
    ) -> Path:
        """`between`: every document has BOS in front and EOS behind."""
        folder = tmp_path / name
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "tokenizer" / "tokenizer.json").write_text(tokenizer_json)
        (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
        sizes = {}
        for split, lists in documents.items():
            writer = SplitWriter(folder, split, 100_000)
            for ids in ([0, *ids, EOS_ID] if between else ids for ids in lists):
                writer.append(np.array(ids))
            sizes[split] = writer.close()
        Prepared(
            folder=folder,
            corpus="by hand",
            corpus_sha256=corpus_sha256,
            tokenizer_sha256=tokenizer_sha256(folder / "tokenizer"),
            vocab_size=100_000,
            bos_id=0,
            eos_id=EOS_ID,
            skipped=0,
            first_skipped=None,
            sizes=sizes,
        ).write()
        return folder

    return make


@pytest.fixture
def folder(make_folder) -> Path:
    return make_folder()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_HUB_OFFLINE=1, which is read when the packages are imported, wherever that was."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def _info_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
