"""Planted mistakes: each can still be made in the engine as it is, and the simulation notices them."""

import pytest

from tests.covering import full
from tests.simulation.mutants import RESULTS, ROOT, hunt, plant, recorded
from tests.simulation.planted import GROUPS, MUTANTS, Mutant

SCHEDULES, QUICK = 1000, 150
HINTS = {
    name: row["seed"]
    for name, row in recorded(RESULTS).items()
    if name in MUTANTS and row["seed"] is not None and row["schedules"] <= QUICK
}
"""The seed at which each mistake that takes up to `QUICK` schedules showed last. The others are hunted by
`python -m tests.simulation.mutants` alone."""
EASY = MUTANTS["window_not_reset"]


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mistake_can_be_planted(mutant: Mutant) -> None:
    source = (ROOT / "muloco" / mutant.file).read_text()
    changed = mutant.applied(source)
    assert changed != source
    compile(changed, mutant.file, "exec")


def test_every_mistake_has_a_name_of_its_own() -> None:
    assert len(MUTANTS) == sum(map(len, GROUPS)) >= 35


def test_a_text_that_is_not_there_once_is_refused() -> None:
    with pytest.raises(ValueError, match="window_not_reset: the text occurs 2 times"):
        EASY.applied(2 * EASY.text)


def test_a_mistake_is_planted_in_a_copy(tmp_path) -> None:
    source = (ROOT / "muloco" / EASY.file).read_text()
    plant(EASY, tmp_path)
    assert (tmp_path / "muloco" / EASY.file).read_text() == EASY.applied(source)
    assert (ROOT / "muloco" / EASY.file).read_text() == source


def test_a_mistake_that_shows_at_once_is_noticed() -> None:
    found = hunt(EASY, 0, 3)
    assert found.found_by and found.seed is not None and found.seed < 3


def test_a_hint_is_tried_first() -> None:
    assert hunt(EASY, 0, 50, hint=40).seed == 40


def test_a_hint_outside_the_seeds_is_not_tried() -> None:
    assert (hunt(EASY, 0, 3, hint=40).seed or 0) < 3


@full
@pytest.mark.parametrize("name", HINTS)
def test_the_simulation_notices_a_mistake(name: str) -> None:
    assert hunt(MUTANTS[name], 0, SCHEDULES, HINTS[name]).found_by
