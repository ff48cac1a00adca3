"""The outer loop in one process against the reference, over workers, fragments, delays, merges and outer rates."""

import itertools

import pytest
import torch

from ...covering import only
from ..toy import Case, assert_equals_reference, train_in_process


@pytest.mark.parametrize("workers", only([1, 2, 3], [1, 2, 3, 4, 8]))
def test_equals_the_reference(workers: int) -> None:
    """H = 13 divides by neither 2 nor 3, H = 12 by both; runs end in mid-window, some with a fragment in flight."""
    for (interval, steps, lr), fragments, delay, alpha in itertools.product(
        [(13, 29, 0.7), (12, 31, 1.0)], [1, 2, 3], [0, 1, 3], [0.0, 0.5]
    ):
        case = Case(
            workers=workers, fragments=fragments, interval=interval, steps=steps, delay=delay, alpha=alpha, lr=lr
        )
        assert_equals_reference(train_in_process(case), case.expected(), case)


@pytest.mark.parametrize("steps", range(10, 19))
def test_a_run_may_end_after_any_step(steps: int) -> None:
    """On a due step, between sending and applying, right after a merge: nothing is left behind."""
    for delay in (0, 1, 3):
        case = Case(fragments=3, steps=steps, delay=delay, alpha=0.5)
        assert_equals_reference(train_in_process(case), case.expected(), case)


def test_a_window_shorter_than_the_interval_and_no_momentum() -> None:
    for case in (
        Case(workers=3, interval=30, steps=5),
        Case(workers=3, interval=30, steps=1, fragments=2, delay=3),
        Case(workers=2, interval=1, steps=6, momentum=0.0),
        Case(workers=2, interval=2, steps=7, fragments=2),
    ):
        assert_equals_reference(train_in_process(case), case.expected(), case)


def test_parameters_between_the_syncs_are_the_references() -> None:
    """What `alpha` keeps is seen by the inner steps of each worker, at every step."""
    case = Case(workers=2, fragments=3, delay=3, alpha=0.25)
    expected = case.expected()
    for worker, result in enumerate(train_in_process(case)):
        for step, (local, wanted) in enumerate(zip(result.local, expected.local, strict=True), start=1):
            for name, value in wanted[worker].items():
                torch.testing.assert_close(
                    local[name].double(), value, rtol=1e-5, atol=1e-5, msg=lambda m, s=step, n=name: f"{s}, {n}: {m}"
                )


def test_one_group_of_threads_repeats_to_the_bit() -> None:
    case = Case(workers=3, fragments=2, delay=1, alpha=0.5)
    once, again = train_in_process(case), train_in_process(case)
    assert [result.digests for result in once] == [result.digests for result in again]
