"""The loader against oracles that know only the documents; their tokens tell document and place (see conftest)."""

import copy
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from muloco._torchtitan import IGNORE_INDEX
from muloco.data.loader import PackedDataLoader

from .conftest import EOS_ID, STRIDE

LAYOUTS = [(1, 1), (3, 1), (1, 3), (2, 2), (4, 3), (14, 1)]


def build(
    folder: Path,
    *,
    rank: int = 0,
    ranks: int = 1,
    seq_len: int = 16,
    batch: int = 2,
    split: str = "train",
    seed: int = 5,
    **config,
) -> PackedDataLoader:
    """A loader built the way torchtitan's trainer builds it."""
    return PackedDataLoader.Config(folder=str(folder), split=split, seed=seed, **config).build(
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


def pairs_of(documents: list[list[int]]) -> int:
    return sum(len(document) - 1 for document in documents)


def equal(left, right) -> bool:
    return all(
        torch.equal(a["input"], b["input"]) and torch.equal(a["positions"], b["positions"]) and torch.equal(x, y)
        for (a, x), (b, y) in zip(left, right, strict=True)
    )


@pytest.mark.parametrize(("workers", "ranks"), LAYOUTS)
def test_shares_together_are_the_documents(folder: Path, documents, workers: int, ranks: int) -> None:
    """Cutting each share's stream where documents begin gives back every document once, token by token."""
    found = []
    for loader in every_share(folder, workers, ranks, infinite=False):
        inputs, labels, _ = flat(loader)
        pairs = [pair for pair in zip(inputs, labels, strict=True) if pair[1] != IGNORE_INDEX]
        for token, label in pairs:
            if token % STRIDE == 0:
                found.append([token])
            assert found[-1][-1] == token
            found[-1].append(label)
    assert sorted(found) == sorted(documents["train"])


@pytest.mark.parametrize(("workers", "ranks"), LAYOUTS)
def test_documents_are_dealt_round_robin(folder: Path, documents, workers: int, ranks: int) -> None:
    for share, loader in enumerate(every_share(folder, workers, ranks, infinite=False)):
        mine = {token // STRIDE for token in flat(loader)[0] if token != EOS_ID}
        dealt = documents["train"][share :: workers * ranks]
        assert mine == {document[0] // STRIDE for document in dealt}


def test_workers_and_ranks_read_the_same_shares(folder: Path) -> None:
    for many, one in zip(every_share(folder, 4, 1), every_share(folder, 1, 4), strict=True):
        assert equal(take(many, 20), take(one, 20))


@pytest.mark.parametrize(("seq_len", "batch"), [(1, 1), (7, 1), (16, 2), (64, 3), (500, 1)])
def test_every_epoch_of_the_infinite_stream(folder: Path, documents, seq_len: int, batch: int) -> None:
    """Each stretch of one epoch's length holds every pair once; orders differ from epoch to epoch."""
    length = pairs_of(documents["train"])
    steps = 4 * length // (seq_len * batch) + 1
    inputs, labels, _ = flat(take(build(folder, seq_len=seq_len, batch=batch), steps))
    expected = Counter(pair for document in documents["train"] for pair in itertools.pairwise(document))
    orders = set()
    for epoch in range(4):
        pairs = list(zip(inputs, labels, strict=True))[epoch * length : (epoch + 1) * length]
        assert Counter(pairs) == expected
        orders.add(tuple(token // STRIDE for token, _ in pairs if token % STRIDE == 0))
    stored = tuple(document[0] // STRIDE for document in documents["train"])
    assert len(orders) == 4 and stored not in orders


def test_order_of_documents_is_the_same_for_all_time(folder: Path) -> None:
    """A saved position means something only while seed and epoch fix the order: these must never change."""

    def order(seed: int, steps: int) -> list[int]:
        inputs = flat(take(build(folder, seed=seed, seq_len=1, batch=1), steps))[0]
        return [token // STRIDE for token in inputs if token % STRIDE == 0]

    assert order(5, 210) == [8, 9, 5, 12, 4, 6, 7, 13, 3, 11, 1, 2, 14, 10]
    assert order(6, 210) != order(5, 210)


@pytest.mark.parametrize("infinite", [True, False])
@pytest.mark.parametrize(("seq_len", "batch"), [(1, 3), (5, 2), (16, 2), (40, 1), (128, 4)])
def test_labels_and_positions_by_brute_force(folder: Path, documents, seq_len: int, batch: int, infinite: bool) -> None:
    steps = 2 * pairs_of(documents["train"]) // (seq_len * batch) + 2
    inputs, labels, positions = flat(take(build(folder, seq_len=seq_len, batch=batch, infinite=infinite), steps))
    continued = 0
    for at, (token, label, position) in enumerate(zip(inputs, labels, positions, strict=True)):
        starts_row = at % seq_len == 0
        if label == IGNORE_INDEX:
            assert not infinite and token == EOS_ID
            starts_document = labels[at - 1] != IGNORE_INDEX
        else:
            assert label == token + 1
            starts_document = token % STRIDE == 0
        continued += starts_row and not starts_document
        assert position == (0 if starts_row or starts_document else positions[at - 1] + 1)
        assert position < seq_len
    assert continued or seq_len == 128


def test_tiny_documents_written_out(tmp_path: Path, make_folder, documents) -> None:
    """A document of 6 tokens alone in its share, rows of 3: what the batches are, number by number."""
    folder = make_folder()
    loader = build(folder, split="validation", worker=0, workers=3, seq_len=3, batch=1, infinite=False)
    first, second = list(loader)
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


def test_finite_loader_pads_the_end_only_and_starts_over(folder: Path, documents) -> None:
    loader = build(folder, infinite=False, seq_len=16, batch=2)
    first = list(loader)
    labels = flat(first)[1]
    length = pairs_of(documents["train"])
    assert IGNORE_INDEX not in labels[:length] and set(labels[length:]) == {IGNORE_INDEX}
    assert len(labels) == -(-length // 32) * 32
    assert equal(list(loader), first)


def test_finite_loader_whose_pairs_fill_the_last_batch(folder: Path, documents) -> None:
    length = pairs_of(documents["train"])
    ((_, labels),) = list(build(folder, infinite=False, seq_len=length, batch=1))
    assert IGNORE_INDEX not in labels


def test_front_of_the_finite_loader_is_the_infinite_one(folder: Path) -> None:
    assert equal(take(build(folder, infinite=False), 6), take(build(folder), 6))


@pytest.mark.parametrize("steps", [0, 1, 3, 6, 7, 13, 20])
def test_resume_equals_the_uninterrupted_run(folder: Path, documents, steps: int) -> None:
    """32 pairs a batch and 210 an epoch: step 7 is in the batch over the first epoch's end, 13 is before the second."""
    assert pairs_of(documents["train"]) == 210
    whole = take(build(folder), 30)
    interrupted = build(folder)
    before = take(interrupted, steps)
    state = copy.deepcopy(interrupted.state_dict())
    take(interrupted, 5)
    resumed = build(folder)
    take(resumed, 2)
    resumed.load_state_dict(state)
    assert equal(before + take(resumed, 30 - steps), whole)


def test_resume_exactly_at_an_epochs_end(folder: Path) -> None:
    whole = take(build(folder, seq_len=21, batch=2), 12)
    interrupted = build(folder, seq_len=21, batch=2)
    take(interrupted, 5)
    resumed = build(folder, seq_len=21, batch=2)
    resumed.load_state_dict(interrupted.state_dict())
    assert equal(take(resumed, 7), whole[5:])


def test_resume_with_another_batch_shape_loses_nothing(folder: Path) -> None:
    whole = flat(take(build(folder, seq_len=16, batch=2), 20))
    interrupted = build(folder, seq_len=16, batch=2)
    take(interrupted, 9)
    resumed = build(folder, seq_len=11, batch=3)
    resumed.load_state_dict(interrupted.state_dict())
    inputs, labels, _ = flat(take(resumed, 10))
    assert inputs == whole[0][9 * 32 : 9 * 32 + 330] and labels == whole[1][9 * 32 : 9 * 32 + 330]


def test_finite_loader_resumes_too(folder: Path) -> None:
    whole = list(build(folder, infinite=False))
    for steps in range(len(whole) + 1):
        interrupted = build(folder, infinite=False)
        take(interrupted, steps)
        resumed = build(folder, infinite=False)
        resumed.load_state_dict(interrupted.state_dict())
        assert equal(list(resumed), whole[steps:])


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
        "split": build(folder, workers=2, worker=1, split="validation"),
        "corpus": build(make_folder("a", corpus_sha256="d0" * 32), workers=2, worker=1),
        "tokenizer": build(make_folder("b", tokenizer_json="{ }"), workers=2, worker=1),
    }
    for name, loader in others.items():
        with pytest.raises(ValueError, match=f"the data position was saved with {name} "):
            loader.load_state_dict(state)
    build(make_folder("moved"), workers=2, worker=1).load_state_dict(state)


def test_broken_positions_are_refused(folder: Path) -> None:
    loader = build(folder)
    with pytest.raises(ValueError, match="no dp_rank_0; it has: nothing"):
        loader.load_state_dict({})
    state = loader.state_dict()
    state["dp_rank_0"]["consumed"] = 211
    with pytest.raises(ValueError, match="211 consumed; an epoch of this share has 210"):
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
    with pytest.raises(ValueError, match="no split 'test'"):
        build(folder, split="test")
    with pytest.raises(FileNotFoundError, match="no prepared corpus"):
        build(tmp_path / "nowhere")


def test_validation_is_the_same_on_every_worker(folder: Path) -> None:
    """What the caller does for validation: worker 0 of 1, whatever K is; the ranks divide it."""
    ranks = [flat(build(folder, split="validation", rank=rank, ranks=2, infinite=False))[0] for rank in (0, 1)]
    documents = [{token // STRIDE for token in inputs if token != EOS_ID} for inputs in ranks]
    assert documents == [{1, 3}, {2}]


def test_batches_do_not_touch_the_file(folder: Path) -> None:
    before = (folder / "train.tokens.npy").read_bytes()
    ((batch, labels),) = take(build(folder), 1)
    batch["input"].zero_()
    labels.zero_()
    assert (folder / "train.tokens.npy").read_bytes() == before
    assert np.load(folder / "train.tokens.npy").any()
