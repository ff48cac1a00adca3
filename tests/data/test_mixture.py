"""The schedule of a mixture, and prepared mixtures."""

import itertools
import json
from collections import Counter

import pytest

from muloco.data.held_out import HeldOutDataLoader
from muloco.data.loader import PackedDataLoader
from muloco.data.mixture import Schedule

from .conftest import STRIDE
from .test_loader import equal, rows, take

WEIGHTS = [(1.0,), (1, 1), (0.7, 0.2, 0.1), (5, 0.01), (1e-3, 3, 2, 7)]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("share", [0, 1, 33])
def test_shares_follow_the_weights_in_every_prefix(weights: tuple[float, ...], share: int) -> None:
    schedule = Schedule(weights, seed=3, share=share)
    counts = [0] * len(weights)
    for number in range(3000):
        counts[schedule.source(number)] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - (number + 1) * weight / sum(weights)) < 4
    assert schedule.counts(3000) == counts


def test_schedules_differ_by_seed_and_share_and_never_change() -> None:
    def first(**which: int) -> list[int]:
        schedule = Schedule((2, 1), **which)
        return [schedule.source(number) for number in range(12)]

    assert first(seed=0, share=0) == first(seed=0, share=0)
    orders = {tuple(first(seed=seed, share=share)) for seed in range(3) for share in range(3)}
    assert len(orders) > 4
    assert first(seed=0, share=0) == PINNED


PINNED = [0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("weights", [(), (1, 0), (1, -1), (float("nan"),), (float("inf"), 1)])
def test_impossible_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Schedule(weights, seed=0, share=0)


@pytest.fixture
def folders(make_folder, documents) -> tuple[str, str]:
    """Two folders of the same documents, told apart by adding to the tokens of the second."""
    first = make_folder("first")
    for split, lists in documents.items():
        documents[split] = [[token + 50_000 for token in ids] for ids in lists]
    return str(first), str(make_folder("second", corpus_sha256="d1" * 32))


def build(folders, weights=(3.0, 1.0), **config) -> PackedDataLoader:
    return PackedDataLoader.Config(folders=folders, weights=weights, seed=5, **config).build(
        dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=16, local_batch_size=2
    )


def test_a_mixture_interleaves_what_its_sources_give_alone(folders) -> None:
    """By source, the rows are those of that source's own loader, in its order; as many as the weights say."""
    for worker in range(2):
        mixed = rows(take(build(folders, workers=2, worker=worker), 60))
        apart = {
            False: [row for row in mixed if row[0][0] < 50_000],
            True: [row for row in mixed if row[0][0] >= 50_000],
        }
        assert abs(len(apart[False]) - 90) < 4
        for second, folder in enumerate(folders):
            alone = rows(take(build((folder,), (1.0,), workers=2, worker=worker), 60))
            assert apart[bool(second)] == alone[: len(apart[bool(second)])]


def test_mixtures_resume_exactly_and_refuse_others(folders) -> None:
    whole = take(build(folders), 40)
    for steps in (0, 1, 7, 8, 23):
        interrupted = build(folders)
        take(interrupted, steps)
        state = json.loads(json.dumps(interrupted.state_dict()))
        resumed = build(folders)
        take(resumed, 3)
        resumed.load_state_dict(state)
        assert equal(take(resumed, 40 - steps), whole[steps:])
    for other in (build(folders, (1.0, 1.0)), build(folders[::-1])):
        with pytest.raises(ValueError, match="the data position was saved with (weights|corpus)"):
            other.load_state_dict(state)


def test_impossible_mixtures_are_refused(folders, make_folder) -> None:
    with pytest.raises(ValueError, match="1 weights for 2 sources"):
        build(folders, (1.0,))
    with pytest.raises(ValueError, match="were made with different tokenizers"):
        build((folders[0], str(make_folder("third", tokenizer_json="{ }"))))


def held_out(folders, weights, sequences: int, ranks: int = 1) -> list:
    found = []
    for rank in range(ranks):
        config = HeldOutDataLoader.Config(folders=folders, weights=weights, sequences=sequences)
        found.append(
            list(config.build(dp_world_size=ranks, dp_rank=rank, tokenizer=None, seq_len=4, local_batch_size=1))
        )
    return list(itertools.chain(*zip(*found, strict=True)))


def test_the_held_out_set_is_mixed_too(folders) -> None:
    one = held_out(folders, (3.0, 1.0), 8)
    assert equal(one, held_out(folders, (3.0, 1.0), 8, ranks=2))
    counts = Counter(batch["input"][0, 0].item() >= 50 * STRIDE for batch, _ in one)
    assert abs(counts[False] - 6) <= 1
    with pytest.raises(ValueError, match="the corpus holds out 6 sequences"):
        held_out(folders, (9.0, 1.0), 8)
