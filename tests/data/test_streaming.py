"""Streaming against an oracle that knows the documents alone: words are named after the ids that they become."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
import torch.distributed.checkpoint as dcp
from tokenizers import Tokenizer, models, pre_tokenizers

from muloco.data.corpus import Document
from muloco.data.loader import StreamingDataLoader
from muloco.data.prepare import prepare
from muloco.errors import UserError
from muloco.settings.data import ResolvedData

from .conftest import LENGTHS, STRIDE
from .test_loader import equal, rows, take

pytestmark = pytest.mark.usefixtures("offline")

BAD_SHARES = [(1, 12), (7, 12), (7, 14), (13, 14)]  # they have nothing but a broken line
LAYOUTS = [(1, 1), (3, 1), (1, 3), (2, 2), (4, 3), (14, 1)]
BOS, EOS = 0, 1
NUMBERS = [n for n in range(3, 30 * STRIDE) if n < STRIDE or n % STRIDE < 64 or n % 20 == 0]
Pair = tuple[int, int]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`w1007` is the token 1007."""
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {"<s>": BOS, "</s>": EOS, "?": 2} | {f"w{number}": number for number in NUMBERS}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return str(folder)


def make_documents(first: int, lengths: list[int]) -> list[list[int]]:
    return [[STRIDE * (first + n) + place for place in range(length)] for n, length in enumerate(lengths)]


def text(ids: list[int]) -> str:
    return " ".join(f"w{number}" for number in ids)


def write(folder: Path, documents: list[list[int]], files: int = 3) -> Path:
    """Several files, with a bad line in each and an empty file between them."""
    folder.mkdir()
    (folder / "9.jsonl").touch()
    for number in range(files):
        lines = [json.dumps({"text": text(ids)}) for ids in documents[number::files]]
        (folder / f"{number}.jsonl").write_text("\n".join([*lines[:1], "{broken", *lines[1:]]) + "\n")
    return folder


def pairs_of(documents: list[list[int]]) -> Counter[Pair]:
    return Counter(pair for ids in documents for pair in itertools.pairwise([BOS, *ids, EOS]))


@pytest.fixture
def documents() -> list[list[int]]:
    return make_documents(1, LENGTHS["train"])


@pytest.fixture
def corpus(tmp_path: Path, documents) -> str:
    return str(write(tmp_path / "corpus", documents))


def build(
    sources,
    tokenizer: str,
    *,
    rank: int = 0,
    ranks: int = 1,
    seq_len: int = 16,
    batch: int = 2,
    shuffle_buffer: int = 5,
    hold_out: bool = False,
    strict: bool = False,
    **config,
) -> StreamingDataLoader:
    data = ResolvedData(
        corpus=sources,
        prepare=False,
        shuffle_buffer=shuffle_buffer,
        validation=None if hold_out else "another source",
        strict=strict,
    )
    return StreamingDataLoader.Config(**{"data": data, "tokenizer_folder": tokenizer, "seed": 5} | config).build(
        dp_world_size=ranks, dp_rank=rank, tokenizer=None, seq_len=seq_len, local_batch_size=batch
    )


def stream_of(loader_rows: list[tuple[Pair, ...]]) -> list[Pair]:
    return list(itertools.chain(*loader_rows))


@pytest.mark.parametrize(("workers", "ranks"), LAYOUTS)
@pytest.mark.parametrize("seq_len", [1, 7, 64])
def test_shares_together_are_the_documents(corpus, documents, tokenizer, workers, ranks, seq_len) -> None:
    """Each share reads whole documents, and the same ones again in the next epoch; together they read all."""
    found: Counter[Pair] = Counter()
    for worker, rank in itertools.product(range(workers), range(ranks)):
        share = {"worker": worker, "workers": workers, "rank": rank, "ranks": ranks}
        loader = build(corpus, tokenizer, **share, seq_len=seq_len, shuffle_buffer=1, batch=1)
        if (worker * ranks + rank, workers * ranks) in BAD_SHARES:
            with pytest.raises(UserError, match="finds no text"):
                take(loader, 1)
            continue
        order: list[Pair] = []
        for batch in loader:
            order += stream_of(rows([batch]))
            starts = [place for place, pair in enumerate(order) if pair[0] == BOS]
            if len({order[start][1] for start in starts[:-1]}) < len(starts) - 1:
                break  # a document has come twice: an epoch is whole
        seen = [tuple(order[start:stop]) for start, stop in itertools.pairwise(starts)]
        epoch = seen[: seen.index(seen[0], 1)] if seen[0] in seen[1:] else seen
        assert len(set(epoch)) == len(epoch)
        assert seen[len(epoch) :] == seen[: len(seen) - len(epoch)], "the epochs are alike"
        found.update(itertools.chain(*epoch))
    assert found == pairs_of(documents)


@pytest.mark.parametrize(("seq_len", "block"), [(16, 5), (7, 3), (300, 2), (16, 1)])
def test_blocks_are_the_stream_in_another_order(corpus, tokenizer, seq_len, block) -> None:
    """Nothing lost and nothing twice: block by block, the rows are those of the stream that is not shuffled."""
    plain = rows(take(build(corpus, tokenizer, seq_len=seq_len, batch=1, shuffle_buffer=1), 8 * block))
    mixed = rows(take(build(corpus, tokenizer, seq_len=seq_len, batch=1, shuffle_buffer=block), 8 * block))
    for start in range(0, 8 * block, block):
        assert Counter(mixed[start : start + block]) == Counter(plain[start : start + block])
    assert (mixed == plain) == (block == 1)
    other = rows(take(build(corpus, tokenizer, seq_len=seq_len, batch=1, shuffle_buffer=block, seed=6), 8 * block))
    assert (other == mixed) == (block == 1)


def test_positions_and_labels(corpus, tokenizer) -> None:
    for inputs, labels in take(build(corpus, tokenizer, seq_len=10, batch=3), 60):
        for row, label, position in zip(
            inputs["input"].tolist(), labels.tolist(), inputs["positions"].tolist(), strict=True
        ):
            for at in range(10):
                starts = at == 0 or row[at] == BOS
                assert position[at] == (0 if starts else position[at - 1] + 1)
                assert label[at] == EOS or row[at] == BOS or label[at] == row[at] + 1
                assert at == 0 or row[at] == BOS or row[at] == label[at - 1]


@pytest.mark.parametrize(("seq_len", "batch", "block"), [(16, 2, 5), (21, 3, 4), (500, 1, 2)])
def test_resume_equals_the_uninterrupted_run(corpus, tokenizer, seq_len, batch, block) -> None:
    """At every step: inside a block, at its end, inside a document, over the ends of epochs."""
    settings = {"seq_len": seq_len, "batch": batch, "shuffle_buffer": block, "worker": 1, "workers": 2}
    whole = take(build(corpus, tokenizer, **settings), 24)
    for steps in range(20):
        interrupted = build(corpus, tokenizer, **settings)
        take(interrupted, steps)
        state = json.loads(json.dumps(interrupted.state_dict()))
        take(interrupted, 3)
        resumed = build(corpus, tokenizer, **settings)
        take(resumed, steps % 3)
        resumed.load_state_dict(state)
        assert equal(take(resumed, 24 - steps), whole[steps:])
        interrupted.load_state_dict(state)
        assert equal(take(interrupted, 24 - steps), whole[steps:])


def hub(folder: Path, documents: list[list[int]]) -> str:
    folder.mkdir()
    for number in range(2):
        lines = [json.dumps({"text": text(ids)}) for ids in documents[number::2]]
        (folder / f"train-{number}.jsonl").write_text("\n".join(lines) + "\n")
    return f"hf:{folder}"


@pytest.fixture
def mixture(tmp_path: Path, corpus: str) -> tuple[str, str]:
    return corpus, hub(tmp_path / "hub", make_documents(20, [9, 30, 4, 11, 2]))


def test_a_mixture_interleaves_what_its_sources_give_alone(mixture, tokenizer) -> None:
    mixed = rows(take(build(mixture, tokenizer, weights=(3.0, 1.0), shuffle_buffer=2), 40))

    def number(row: tuple[Pair, ...]) -> int:
        return max(max(pair) for pair in row) // STRIDE

    apart = [[row for row in mixed if number(row) < 20], [row for row in mixed if number(row) >= 20]]
    assert abs(len(apart[0]) - 60) < 4
    for found, source, block in zip(apart, mixture, (2, 1), strict=True):
        assert found == rows(take(build(source, tokenizer, shuffle_buffer=block), 40))[: len(found)]


def test_mixtures_resume_through_a_distributed_checkpoint(mixture, tokenizer, tmp_path: Path) -> None:
    def loader() -> StreamingDataLoader:
        return build(mixture, tokenizer, weights=(2.0, 1.0), shuffle_buffer=7, seq_len=13)

    whole = take(loader(), 30)
    for steps in (0, 1, 9, 17):
        interrupted = loader()
        take(interrupted, steps)
        dcp.save({"dataloader": interrupted}, checkpoint_id=tmp_path / f"{steps}", no_dist=True)
        resumed = loader()
        dcp.load({"dataloader": resumed}, checkpoint_id=tmp_path / f"{steps}", no_dist=True)
        assert equal(take(resumed, 30 - steps), whole[steps:])


def test_positions_of_another_run_are_refused(mixture, corpus, tokenizer, tmp_path: Path, documents) -> None:
    state = build(corpus, tokenizer, workers=2).state_dict()
    others = {
        "shares": build(corpus, tokenizer, workers=3),
        "share": build(corpus, tokenizer, workers=2, worker=1),
        "seed": build(corpus, tokenizer, workers=2, seed=4),
        "seq_len": build(corpus, tokenizer, workers=2, seq_len=8),
        "shuffle_buffer": build(corpus, tokenizer, workers=2, shuffle_buffer=4),
        "hold_out": build(corpus, tokenizer, workers=2, hold_out=True),
        "corpus": build(mixture[1], tokenizer, workers=2),
    }
    for name, loader in others.items():
        with pytest.raises(ValueError, match=f"the data position was saved with {name} "):
            loader.load_state_dict(state)
    (tmp_path / "copies").mkdir()
    copy = write(tmp_path / "copies" / "corpus", documents)
    build(str(copy), tokenizer, workers=2, batch=3).load_state_dict(state)


def test_bad_records_are_skipped_or_refused_on_the_way(corpus, tokenizer, caplog) -> None:
    take(build(corpus, tokenizer), 20)
    assert "0.jsonl, line 2: not JSON" in caplog.text
    assert "epoch 0 of" in caplog.text and "of 17 records; skipped 4 (first:" in caplog.text
    assert caplog.text.count("WARNING") == 4, "what is skipped is named in the first epoch"
    with pytest.raises(UserError, match=r"0.jsonl, line 2: not JSON .*; data.strict refuses"):
        take(build(corpus, tokenizer, strict=True), 20)


def test_a_share_without_text_is_refused(corpus, tokenizer) -> None:
    with pytest.raises(UserError, match="share 39 of 40 finds no text in .*take fewer workers"):
        take(build(corpus, tokenizer, worker=39, workers=40), 1)


def test_held_out_documents_are_not_trained_on(tmp_path: Path, tokenizer) -> None:
    """What training reads and what is held out are disjoint, and together all, whoever reads."""
    documents = [[STRIDE * (1 + n // 50) + n % 50 * 20, 3 + n] for n in range(900)]
    held = [ids for ids in documents if Document("", text(ids)).split == "validation"]
    assert 20 < len(held) < 80
    corpus = str(write(tmp_path / "corpus", documents))
    streamed = ResolvedData(corpus=corpus, tokenizer=tokenizer, prepare=False)
    data = prepare(streamed, held_out_sequences=4, seq_len=10, cache=tmp_path / "cache")
    (folder,) = data.held_out
    tokens, _ = folder.open("validation")
    there = [ids for ids in held if ids[1] in tokens.tolist()]
    assert 13 <= len(there) < len(held), "no more are held ready than asked for"
    found: set[int] = set()
    for worker in range(2):
        loader = build(corpus, str(data.tokenizer_folder), worker=worker, workers=2, hold_out=True, shuffle_buffer=8)
        found |= {pair[1] for row in rows(take(loader, 80)) for pair in row}
    trained = [ids for ids in documents if ids[1] in found]
    assert not {tuple(ids) for ids in trained} & {tuple(ids) for ids in held}
    assert len(trained) + len(held) == 900
    again = prepare(streamed, held_out_sequences=4, seq_len=10, cache=tmp_path / "other")
    assert again.held_out[0].corpus_sha256 == folder.corpus_sha256
