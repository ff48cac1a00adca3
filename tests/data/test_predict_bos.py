"""`predict_bos` against the definition: one stream BOS text EOS BOS text EOS ..., cut every so many inputs, each with
the token behind it as its label."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from muloco._torchtitan import IGNORE_INDEX
from muloco.data.held_out import HeldOutDataLoader
from muloco.data.prepare import prepare
from muloco.errors import UserError
from muloco.settings.data import ResolvedData

from . import test_loader, test_streaming
from .conftest import EOS_ID, LENGTHS
from .test_loader import equal, rows, take
from .test_streaming import EOS, make_documents, pairs_of, text, tokenizer  # noqa: F401  (a fixture)

BOS = 0
ROUNDS = 3  # epochs
LAYOUTS = [(1, 1), (3, 1), (2, 2)]
Window = tuple[tuple[int, int], ...]


def windows(stream: list[int], length: int) -> list[Window]:
    """The definition: inputs are cut every `length` tokens, and each label is the token after its input."""
    return [
        tuple((stream[at], stream[at + 1]) for at in range(start, start + length))
        for start in range(0, len(stream) - length, length)
    ]


def check_positions(batches) -> None:
    """They count from a document's BOS or a row's start; so attention takes EOS for a part of its own document."""
    for inputs, _ in batches:
        for row, positions in zip(inputs["input"].tolist(), inputs["positions"].tolist(), strict=True):
            count = -1
            for token, position in zip(row, positions, strict=True):
                count = 0 if token == BOS else count + 1
                assert position == count


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seq_len", [1, 7, 64])
def test_prepared(make_folder, documents, layout: tuple[int, int], seq_len: int) -> None:
    folder, (workers, ranks) = make_folder(between=True), layout
    for worker, rank in itertools.product(range(workers), range(ranks)):
        share = {"worker": worker, "workers": workers, "rank": rank, "ranks": ranks, "predict_bos": True}
        mine = [[BOS, *ids, EOS_ID] for ids in documents["train"][worker * ranks + rank :: workers * ranks]]
        epoch = sum(map(len, mine))
        # a sequence as long as an epoch leaves nothing to shuffle: this is the stream
        whole = rows(take(test_loader.build(folder, **share, seq_len=epoch, batch=1), ROUNDS + 1 + seq_len // epoch))
        stream = [pair[0] for row in whole for pair in row]
        for start in range(0, len(stream), epoch):
            round_ = stream[start : start + epoch]
            begins = [at for at, token in enumerate(round_) if token == BOS]
            found = [round_[start:stop] for start, stop in itertools.pairwise([*begins, epoch])]
            assert sorted(found) == sorted(mine)
        count = math.ceil(ROUNDS * epoch / seq_len)  # sequences that begin in these epochs
        batches = take(test_loader.build(folder, **share, seq_len=seq_len, batch=1), count)
        assert Counter(rows(batches)) == Counter(windows(stream, seq_len)[:count])
        check_positions(batches)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seq_len", [1, 7, 64])
def test_streamed(tmp_path: Path, tokenizer, layout: tuple[int, int], seq_len: int) -> None:  # noqa: F811
    documents, (workers, ranks) = make_documents(1, LENGTHS["train"]), layout
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text(ids)}) + "\n" for ids in documents))
    for worker, rank in itertools.product(range(workers), range(ranks)):
        mine = documents[worker * ranks + rank :: workers * ranks]
        stream = [token for _ in range(ROUNDS) for ids in mine for token in (BOS, *ids, EOS)]
        wanted = windows(stream, seq_len)
        loader = test_streaming.build(
            str(path),
            tokenizer,
            **{"worker": worker, "workers": workers, "rank": rank, "ranks": ranks},
            **{"seq_len": seq_len, "batch": 1, "shuffle_buffer": 1, "predict_bos": True},
        )
        batches = take(loader, len(wanted))
        assert rows(batches) == wanted
        check_positions(batches)


@pytest.mark.parametrize("kind", ["prepared", "streamed"])
def test_resume_at_every_place(make_folder, tmp_path: Path, tokenizer, kind: str) -> None:  # noqa: F811
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text(ids)}) + "\n" for ids in make_documents(1, LENGTHS["train"])))
    folder = make_folder(between=True)

    def build(predict_bos: bool = True):
        settings = {"workers": 2, "worker": 1, "seq_len": 11, "batch": 1, "predict_bos": predict_bos}
        return (
            test_loader.build(folder, **settings)
            if kind == "prepared"
            else test_streaming.build(str(path), tokenizer, shuffle_buffer=3, **settings)
        )

    whole = take(build(), 30)  # over the end of an epoch
    for steps in range(26):
        interrupted, resumed = build(), build()
        take(interrupted, steps)
        resumed.load_state_dict(json.loads(json.dumps(interrupted.state_dict())))
        assert equal(take(resumed, 30 - steps), whole[steps:])
    for other in (True, False):
        with pytest.raises(ValueError, match=f"was saved with predict_bos {other}, this run has {not other}"):
            build(not other).load_state_dict(build(other).state_dict())


def held_out_pairs(folder: Path, sequences: int, seq_len: int, predict_bos: bool) -> Counter:
    loader = HeldOutDataLoader.Config(folders=(str(folder),), sequences=sequences, predict_bos=predict_bos).build(
        dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=seq_len, local_batch_size=1
    )
    return Counter(pair for row in rows(loader) for pair in row if pair[1] != IGNORE_INDEX)


@pytest.mark.parametrize("predict_bos", [False, True])
def test_held_out(make_folder: Callable[..., Path], documents, predict_bos: bool) -> None:
    """Every pair once; with BOS behind each EOS, the last one's too."""
    folder, seq_len = make_folder(between=True), 5
    whole = [[BOS, *ids, EOS_ID] for ids in documents["validation"]]
    wanted = Counter(pair for ids in whole for pair in itertools.pairwise([*ids, BOS] if predict_bos else ids))
    sequences = math.ceil(wanted.total() / seq_len)
    assert held_out_pairs(folder, sequences, seq_len, predict_bos) == wanted
    with pytest.raises(ValueError, match=f"holds out {sequences} sequences of 5 tokens, {sequences + 1} were asked"):
        held_out_pairs(folder, sequences + 1, seq_len, predict_bos)


@pytest.mark.parametrize("predict_bos", [False, True])
def test_what_is_held_out_is_counted_in_pairs(tmp_path: Path, tokenizer, predict_bos: bool) -> None:  # noqa: F811
    documents = make_documents(1, LENGTHS["validation"])
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text(ids)}) + "\n" for ids in documents))
    there = pairs_of(documents).total() + (len(documents) if predict_bos else 0)

    def ask(sequences: int) -> None:
        prepare(
            ResolvedData(tokenizer=tokenizer, validation=str(path), prepare=False, predict_bos=predict_bos),
            held_out_sequences=sequences,
            seq_len=1,
            cache=tmp_path / f"cache-{sequences}",
        )

    ask(there)
    with pytest.raises(UserError, match=f"holds out {there} sequences of 1 tokens, {there + 1} were asked for"):
        ask(there + 1)
