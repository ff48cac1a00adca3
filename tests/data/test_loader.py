"""The loader against oracles that know only the documents; their tokens tell document and place (see conftest)."""

import copy
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from muloco._torchtitan import IGNORE_INDEX
from muloco.data.loader import PackedDataLoader, lay_out
from muloco.data.prepared import read_prepared
from muloco.data.stream import PreparedStream

from .conftest import EOS_ID, STRIDE

LAYOUTS = [(1, 1), (3, 1), (1, 3), (2, 2), (4, 3), (14, 1)]
LENGTH = 210  # pairs in an epoch of the training split
SEQ_LENS = [1, 7, 16, 64, 210, 211, 500]  # they divide an epoch or not, or are longer than one


def build(
    folder: Path,
    *,
    rank: int = 0,
    ranks: int = 1,
    seq_len: int = 16,
    batch: int = 2,
    seed: int = 5,
    **config,
) -> PackedDataLoader:
    """A loader built the way torchtitan's trainer builds it."""
    return PackedDataLoader.Config(folders=(str(folder),), seed=seed, **config).build(
        dp_world_size=ranks,
        dp_rank=rank,
        tokenizer=None,
        seq_len=seq_len,
        local_batch_size=batch,
        snapshot_every_n_steps=None,
    )


def every_share(folder: Path, workers: int, ranks: int, **config) -> list[PackedDataLoader]:
    return [
        build(folder, worker=worker, workers=workers, rank=rank, ranks=ranks, **config)
        for worker in range(workers)
        for rank in range(ranks)
    ]


def flat(batches) -> tuple[list[int], list[int], list[int]]:
    """Inputs, labels and positions of all batches, end to end."""
    inputs, labels, positions = [], [], []
    for batch, label in batches:
        inputs += batch["input"].flatten().tolist()
        positions += batch["positions"].flatten().tolist()
        labels += label.flatten().tolist()
    return inputs, labels, positions


def take(loader: PackedDataLoader, steps: int) -> list:
    return list(itertools.islice(loader, steps))


def all_pairs(documents: list[list[int]]) -> Counter:
    return Counter(pair for document in documents for pair in itertools.pairwise(document))


def rows(batches) -> list[tuple[tuple[int, int], ...]]:
    """Every row as its (input, label) pairs, padding left out."""
    return [
        tuple(pair for pair in zip(row, row_labels, strict=True) if pair[1] != IGNORE_INDEX)
        for batch, labels in batches
        for row, row_labels in zip(batch["input"].tolist(), labels.tolist(), strict=True)
    ]


def in_order(folder: Path, epochs: int, **config) -> list[tuple[int, int]]:
    """The pairs of the first epochs before sequences are shuffled: rows of a whole epoch leave nothing to shuffle."""
    return list(itertools.chain(*rows(take(build(folder, seq_len=LENGTH, batch=1, **config), epochs))))


def equal(left, right) -> bool:
    return all(
        torch.equal(a["input"], b["input"]) and torch.equal(a["positions"], b["positions"]) and torch.equal(x, y)
        for (a, x), (b, y) in zip(left, right, strict=True)
    )


@pytest.mark.parametrize(("workers", "ranks"), LAYOUTS)
@pytest.mark.parametrize("seq_len", SEQ_LENS)
def test_shares_together_are_the_documents(folder: Path, documents, workers: int, ranks: int, seq_len: int) -> None:
    """Up to the first epoch end that no sequence crosses, each share has read each pair of its documents as often."""
    for share, loader in enumerate(every_share(folder, workers, ranks, seq_len=seq_len, batch=1)):
        pairs = all_pairs(documents["train"][share :: workers * ranks])
        aligned = math.lcm(seq_len, pairs.total())
        read = Counter(itertools.chain(*rows(take(loader, aligned // seq_len))))
        assert read == Counter(dict.fromkeys(pairs, aligned // pairs.total()))


@pytest.mark.parametrize(("workers", "ranks"), LAYOUTS)
def test_documents_are_dealt_round_robin(folder: Path, documents, workers: int, ranks: int) -> None:
    for share, loader in enumerate(every_share(folder, workers, ranks)):
        mine = {token // STRIDE for token in flat(take(loader, LENGTH // 16))[0]}
        dealt = documents["train"][share :: workers * ranks]
        assert mine == {document[0] // STRIDE for document in dealt}


def test_workers_and_ranks_read_the_same_shares(folder: Path) -> None:
    for many, one in zip(every_share(folder, 4, 1), every_share(folder, 1, 4), strict=True):
        assert equal(take(many, 20), take(one, 20))


def test_documents_of_every_epoch_are_whole_and_in_a_new_order(folder: Path, documents) -> None:
    stream = in_order(folder, 4)
    orders = set()
    for epoch in range(4):
        found = []
        for token, label in stream[epoch * LENGTH : (epoch + 1) * LENGTH]:
            if token % STRIDE == 0:
                found.append([token])
            assert found[-1][-1] == token
            found[-1].append(label)
        assert sorted(found) == documents["train"]
        orders.add(tuple(document[0] for document in found))
    assert len(orders) == 4 and tuple(document[0] for document in documents["train"]) not in orders


@pytest.mark.parametrize("seq_len", SEQ_LENS)
def test_sequences_cut_the_endless_stream(folder: Path, seq_len: int) -> None:
    """The rows of an epoch are, in another order, the pieces of the unshuffled stream that start in that epoch."""
    epochs = 6
    stream = in_order(folder, epochs + seq_len // LENGTH + 1)
    starts = range(0, epochs * LENGTH, seq_len)
    found = rows(take(build(folder, seq_len=seq_len, batch=1), len(starts)))
    for epoch in range(epochs):
        mine = [tuple(stream[start : start + seq_len]) for start in starts if start // LENGTH == epoch]
        read, found = found[: len(mine)], found[len(mine) :]
        assert Counter(read) == Counter(mine)
        assert read != mine or len(mine) < 2


@pytest.mark.parametrize("seq_len", SEQ_LENS)
def test_every_epoch_is_read_once(folder: Path, documents, seq_len: int) -> None:
    """Up to the first epoch end that no sequence crosses, each pair is read once per epoch."""
    aligned = math.lcm(seq_len, LENGTH)
    read = Counter(itertools.chain(*rows(take(build(folder, seq_len=seq_len, batch=1), aligned // seq_len))))
    assert read == Counter({pair: aligned // LENGTH for pair in all_pairs(documents["train"])})


def test_orders_are_the_same_for_all_time(folder: Path) -> None:
    """A saved position means something only while seed and epoch fix both orders: these must never change."""
    documents = [token // STRIDE for token, _ in in_order(folder, 2) if token % STRIDE == 0]
    assert documents[:14] == [8, 9, 5, 12, 4, 6, 7, 13, 3, 11, 1, 2, 14, 10]
    assert documents[14:] == [14, 8, 7, 13, 2, 9, 6, 5, 3, 1, 4, 11, 12, 10]

    def sequences(seed: int) -> list[int]:
        """14 sequences an epoch too."""
        stream = in_order(folder, 2, seed=seed)
        pieces = [tuple(stream[start : start + 15]) for start in range(0, 2 * LENGTH, 15)]
        read = rows(take(build(folder, seed=seed, seq_len=15, batch=1), 28))
        return [pieces.index(row) for row in read[:14]] + [pieces.index(row, 14) - 14 for row in read[14:]]

    assert sequences(5)[:14] == [7, 10, 13, 1, 12, 3, 6, 8, 9, 2, 0, 11, 5, 4]
    assert sequences(5)[14:] == [7, 2, 12, 11, 9, 1, 5, 8, 10, 0, 6, 3, 4, 13]
    assert sequences(6)[:14] == [1, 3, 7, 10, 2, 0, 13, 11, 12, 8, 9, 4, 6, 5]


def test_batches_mix_documents(folder: Path) -> None:
    """8 rows of 4 pairs are less than the longest document, yet each batch is of several."""
    for batch, _ in take(build(folder, seq_len=4, batch=8), 40):
        assert len({row // STRIDE for row in batch["input"][:, 0].tolist()}) >= 3


@pytest.mark.parametrize("batch", [2, 3, 20])
def test_rows_do_not_depend_on_the_batch_size(folder: Path, batch: int) -> None:
    one = rows(take(build(folder, batch=1), 60))
    assert rows(take(build(folder, batch=batch), 60 // batch)) == one


@pytest.mark.parametrize(("seq_len", "batch"), [(1, 3), (5, 2), (16, 2), (40, 1), (128, 4)])
def test_labels_and_positions_by_brute_force(folder: Path, seq_len: int, batch: int) -> None:
    steps = 2 * LENGTH // (seq_len * batch) + 2
    inputs, labels, positions = flat(take(build(folder, seq_len=seq_len, batch=batch), steps))
    continued = 0
    for at, (token, label, position) in enumerate(zip(inputs, labels, positions, strict=True)):
        starts_row = at % seq_len == 0
        assert label == token + 1
        starts_document = token % STRIDE == 0
        continued += starts_row and not starts_document
        assert position == (0 if starts_row or starts_document else positions[at - 1] + 1)
        assert position < seq_len
    assert continued or seq_len == 128


def test_tiny_document_written_out(folder: Path) -> None:
    """A document of 6 tokens alone in its share, rows of 3: what the batches are, number by number."""
    prepared = read_prepared(folder)
    stream = PreparedStream(prepared, "validation", share=0, shares=3, seed=5, seq_len=3, endless=False)
    sequences = [stream.sequence(0, number) for number in range(stream.sequences(0))]
    second, first = (lay_out([pairs], 1, 3, eos_id=EOS_ID) for pairs in sequences)  # shuffled
    assert first[0]["input"].tolist() == [[1000, 1001, 1002]]
    assert first[0]["positions"].tolist() == [[0, 1, 2]]
    assert first[1].tolist() == [[1001, 1002, 1003]]
    assert second[0]["input"].tolist() == [[1003, 1004, EOS_ID]]
    assert second[0]["positions"].tolist() == [[0, 1, 0]]
    assert second[1].tolist() == [[1004, 1005, IGNORE_INDEX]]


def test_shapes_types_and_full_batches(folder: Path) -> None:
    for batch, labels in take(build(folder, seq_len=10, batch=3), 60):
        assert batch.keys() == {"input", "positions"}
        for tensor in (batch["input"], batch["positions"], labels):
            assert tensor.shape == (3, 10) and tensor.dtype == torch.int64 and tensor.is_contiguous()
        assert IGNORE_INDEX not in labels


def test_a_share_smaller_than_a_batch_repeats_within_it(folder: Path) -> None:
    """Share 0 of 14 is one document of 2 tokens: one pair, over and over."""
    ((batch, labels),) = take(build(folder, workers=14, seq_len=4, batch=2), 1)
    assert set(batch["input"].flatten().tolist()) == {1000}
    assert set(labels.flatten().tolist()) == {1001}
    assert batch["positions"].sum() == 0


def test_the_end_of_a_set_is_padded(folder: Path) -> None:
    """13 sequences of 16 pairs and one of 2, somewhere in between; two rows are missing from the last batch."""
    stream = PreparedStream(read_prepared(folder), "train", share=0, shares=1, seed=5, seq_len=16, endless=False)
    sequences = [stream.sequence(0, number) for number in range(stream.sequences(0))]
    endless = rows(take(build(folder, batch=1), 14))
    batches = [lay_out(sequences[start : start + 4], 4, 16, eos_id=EOS_ID) for start in range(0, 16, 4)]
    assert rows(batches) == [*(row[: len(cut.inputs)] for row, cut in zip(endless, sequences, strict=True)), (), ()]
    labels = np.concatenate([labels for _, labels in batches])
    lengths = (labels != IGNORE_INDEX).sum(axis=1).tolist()
    short = lengths.index(2)
    assert short < 13 and lengths == [16] * short + [2] + [16] * (13 - short) + [0, 0]
    for row, length in enumerate(lengths):
        batch, at = batches[row // 4][0], row % 4
        assert (labels[row, :length] != IGNORE_INDEX).all()
        assert (batch["input"][at, length:] == EOS_ID).all() and (batch["input"][at, :length] != EOS_ID).all()
        assert batch["positions"][at, length:].tolist() == list(range(16 - length))


@pytest.mark.parametrize(("seq_len", "batch"), [(16, 2), (21, 2), (21, 3), (500, 2)])
def test_resume_equals_the_uninterrupted_run(folder: Path, seq_len: int, batch: int) -> None:
    """At every step: inside an epoch, exactly at its end, and after a batch that spans two or, of 500 pairs, more."""
    whole = take(build(folder, seq_len=seq_len, batch=batch), 30)
    for steps in range(25):
        interrupted = build(folder, seq_len=seq_len, batch=batch)
        before = take(interrupted, steps)
        state = copy.deepcopy(interrupted.state_dict())
        take(interrupted, 5)
        resumed = build(folder, seq_len=seq_len, batch=batch)
        take(resumed, 2)
        resumed.load_state_dict(state)
        assert equal(before + take(resumed, 30 - steps), whole)


def test_resume_with_another_batch_size(folder: Path) -> None:
    whole = rows(take(build(folder, batch=2), 20))
    interrupted = build(folder, batch=2)
    take(interrupted, 9)
    resumed = build(folder, batch=5)
    resumed.load_state_dict(interrupted.state_dict())
    assert rows(take(resumed, 4)) == whole[18:38]


def test_position_goes_through_a_distributed_checkpoint(folder: Path, tmp_path: Path) -> None:
    loaders = every_share(folder, 1, 2)
    expected = []
    for loader in loaders:
        take(loader, 9)
        dcp.save({"dataloader": loader}, checkpoint_id=tmp_path / f"checkpoint{len(expected)}", no_dist=True)
        expected.append(take(loader, 9))
    assert not loaders[0].state_dict().keys() & loaders[1].state_dict().keys()
    for number, loader in enumerate(every_share(folder, 1, 2)):
        dcp.load({"dataloader": loader}, checkpoint_id=tmp_path / f"checkpoint{number}", no_dist=True)
        assert equal(take(loader, 9), expected[number])


def test_positions_of_another_run_are_refused(folder: Path, make_folder) -> None:
    state = build(folder, workers=2, worker=1).state_dict()
    others = {
        "shares": build(folder, workers=3, worker=1),
        "share": build(folder, workers=2, worker=0),
        "seed": build(folder, workers=2, worker=1, seed=6),
        "seq_len": build(folder, workers=2, worker=1, seq_len=17),
        "corpus": build(make_folder("a", corpus_sha256="d0" * 32), workers=2, worker=1),
        "tokenizer": build(make_folder("b", tokenizer_json="{ }"), workers=2, worker=1),
    }
    for name, loader in others.items():
        with pytest.raises(ValueError, match=f"the data position was saved with {name} "):
            loader.load_state_dict(state)
    build(make_folder("moved"), workers=2, worker=1, batch=3).load_state_dict(state)


def test_broken_positions_are_refused(folder: Path) -> None:
    loader = build(folder)
    with pytest.raises(ValueError, match="no dp_rank_0; it has: nothing"):
        loader.load_state_dict({})
    state = loader.state_dict()
    for epoch, taken in ((0, 15), (1, 14), (0, -1)):
        state["dp_rank_0"]["places"] = json.dumps([{"epoch": epoch, "taken": taken}])
        with pytest.raises(ValueError, match=f"epoch {epoch}, {taken} sequences taken; .* has {14 - epoch} sequences"):
            loader.load_state_dict(state)
    state["dp_rank_0"]["places"] = json.dumps([{"epoch": -1, "taken": 0}])
    with pytest.raises(ValueError, match="epoch -1, 0 sequences taken; epochs count from 0"):
        loader.load_state_dict(state)


def test_impossible_loaders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="share 14 of 15 has no documents: the split has 14"):
        build(folder, worker=14, workers=15)
    with pytest.raises(ValueError, match=r"worker is 2; of 2 it must be in 0 .. 1"):
        build(folder, worker=2, workers=2)
    with pytest.raises(ValueError, match=r"dp_rank is -1; of 1 it must be in 0 .. 0"):
        build(folder, rank=-1)
    with pytest.raises(ValueError, match="seed is -1"):
        build(folder, seed=-1)
    with pytest.raises(ValueError, match="a batch of 0 x 16 tokens is empty"):
        build(folder, batch=0)
    with pytest.raises(FileNotFoundError, match="no prepared corpus"):
        build(tmp_path / "nowhere")


def test_batches_do_not_touch_the_file(folder: Path) -> None:
    before = (folder / "train.tokens.npy").read_bytes()
    ((batch, labels),) = take(build(folder), 1)
    batch["input"].zero_()
    labels.zero_()
    assert (folder / "train.tokens.npy").read_bytes() == before
    assert np.load(folder / "train.tokens.npy").any()
