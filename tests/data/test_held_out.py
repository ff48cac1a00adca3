"""The held-out set is the same whoever reads it."""

from pathlib import Path

import pytest

from muloco._torchtitan import IGNORE_INDEX
from muloco.data.held_out import HeldOutDataLoader


def rows(
    folder: Path, *, sequences: int, ranks: int, batch: int, seq_len: int = 4
) -> list[tuple[list[int], list[int]]]:
    """All rows that the ranks read and whose labels count, as (inputs, labels), in no particular order."""
    found, batches = [], set()
    for rank in range(ranks):
        loader = HeldOutDataLoader.Config(folders=(str(folder),), sequences=sequences).build(
            dp_world_size=ranks, dp_rank=rank, tokenizer=None, seq_len=seq_len, local_batch_size=batch
        )
        read = list(loader)
        batches.add(len(read))
        for inputs, labels in read:
            assert labels.shape == inputs["input"].shape == inputs["positions"].shape == (batch, seq_len)
            found += zip(inputs["input"].tolist(), labels.tolist(), strict=True)
    assert len(batches) == 1, "ranks compute together, so all have as many batches"
    return sorted((inputs, labels) for inputs, labels in found if set(labels) != {IGNORE_INDEX})


@pytest.mark.parametrize(("ranks", "batch"), [(1, 2), (1, 4), (2, 1), (2, 2), (4, 1), (1, 3), (3, 1), (2, 3), (16, 2)])
def test_same_set_for_any_ranks_and_batch(folder: Path, ranks: int, batch: int) -> None:
    """Also where they do not divide the sequences, and where there are more ranks than sequences."""
    assert rows(folder, sequences=4, ranks=ranks, batch=batch) == rows(folder, sequences=4, ranks=1, batch=1)


def test_whole_split_is_every_pair_once(folder: Path, documents) -> None:
    pairs = [
        pair
        for inputs, labels in rows(folder, sequences=6, ranks=1, batch=1)
        for pair in zip(inputs, labels, strict=True)
        if pair[1] != IGNORE_INDEX
    ]
    expected = [pair for document in documents["validation"] for pair in zip(document, document[1:], strict=False)]
    assert sorted(pairs) == sorted(expected)


def test_sets_that_cannot_be_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="holds out 6 sequences of 4 tokens, 8 were asked for"):
        rows(folder, sequences=8, ranks=1, batch=1)
