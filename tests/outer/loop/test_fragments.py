"""Which parameters travel together, and when: against brute force and closed forms."""

import itertools
import random

import pytest

from muloco.outer.loop.fragments import Schedule, by_modules, by_number, module_of

NAMES = ["tok_embeddings.weight", "layers.0.wq.weight", "layers.0.norm.weight", "layers.1.wq.weight", "norm.weight"]


def least_largest(sizes: list[int], number: int) -> int:
    """Of all ways to cut a list into runs, the smallest largest sum."""
    cuts = itertools.combinations(range(1, len(sizes)), number - 1)
    return min(max(sum(sizes[a:b]) for a, b in itertools.pairwise((0, *cut, len(sizes)))) for cut in cuts)


def test_by_number_is_the_best_contiguous_partition_of_whole_modules() -> None:
    draw = random.Random(5)
    for _ in range(300):
        modules = [draw.choice([1, 3, 10, 100, draw.randint(1, 1000)]) for _ in range(draw.randint(1, 9))]
        sizes = {}
        for index, size in enumerate(modules):
            sizes[f"layers.{index}.a"] = first = draw.randint(0, size)
            sizes[f"layers.{index}.b.weight"] = size - first
        for number in range(1, len(modules) + 1):
            fragments = by_number(sizes, number)
            assert [name for fragment in fragments for name in fragment] == list(sizes), "all, in order"
            assert len(fragments) == number and all(fragments)
            owners = [{module_of(name) for name in fragment} for fragment in fragments]
            assert sum(map(len, owners)) == len(modules), "no module is in two fragments"
            largest = max(sum(sizes[name] for name in fragment) for fragment in fragments)
            assert largest == least_largest(modules, number), (modules, number)


def test_by_number_of_a_model() -> None:
    sizes = dict(zip(NAMES, [50, 40, 2, 42, 4], strict=True))
    assert by_number(sizes, 1) == [tuple(NAMES)]
    assert by_number(sizes, 3) == [tuple(NAMES[:1]), tuple(NAMES[1:3]), tuple(NAMES[3:])]
    for number in (0, 5):
        with pytest.raises(ValueError, match=f"4 modules make 1 to 4 fragments, not {number}"):
            by_number(sizes, number)


def test_by_modules_takes_all_below_a_name_and_keeps_the_models_order() -> None:
    assert by_modules(NAMES, [["norm", "layers.0", "tok_embeddings"], ["layers.1.wq.weight"]]) == [
        tuple(NAMES[:3] + NAMES[4:]),
        (NAMES[3],),
    ]
    names = ["layers.1.w", "layers.10.w"]
    assert by_modules(names, [["layers.10"], ["layers.1"]]) == [("layers.10.w",), ("layers.1.w",)]


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([["layers"], ["norm"]], "1 parameters are in no fragment, the first is tok_embeddings.weight"),
        (
            [["layers"], ["norm", "tok_embeddings", "layers.1"]],
            "layers.1.wq.weight is in fragment 0 and again, by 'lay",
        ),
        ([["layers"], ["norm", "tok_embedding"]], "fragment 1 names 'tok_embedding', .*did you mean tok_embeddings?"),
        ([["layer.0"]], "did you mean layers.0?"),
        ([["xyz"]], "'xyz', which holds no parameter; there are layers.0, layers.1, norm, tok_embeddings"),
    ],
)
def test_by_modules_errors(modules: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_modules(NAMES, modules)


def test_schedule_is_the_closed_form() -> None:
    for interval, fragments in itertools.product(range(1, 16), range(1, 6)):
        if interval < fragments:
            continue
        offsets = [interval * (index + 1) // fragments for index in range(fragments)]
        gap = min(b - a for a, b in itertools.pairwise([0, *offsets]))
        for delay in range(gap):
            schedule = Schedule(sync_interval=interval, fragments=fragments, delay=delay)
            due = {cycle * interval + offset: i for cycle in range(4) for i, offset in enumerate(offsets)}
            sent = {step - delay: index for step, index in due.items()}
            for step in range(1, 3 * interval + 1):
                assert schedule.due_after(step) == due.get(step), (interval, fragments, step)
                assert schedule.sent_after(step) == sent.get(step), (interval, fragments, delay, step)
        for delay in (gap, gap + 1, -1):
            with pytest.raises(ValueError, match=f"the delay must be from 0 to {gap - 1}, .*; got {delay}"):
                Schedule(sync_interval=interval, fragments=fragments, delay=delay)


@pytest.mark.parametrize(
    ("interval", "fragments", "message"),
    [
        (0, 1, "at least 1 inner step; got 0"),
        (3, 0, "at least 1 fragment; got 0"),
        (2, 3, "2 inner steps are too few for 3 fragments"),
    ],
)
def test_impossible_schedules(interval: int, fragments: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(sync_interval=interval, fragments=fragments)
