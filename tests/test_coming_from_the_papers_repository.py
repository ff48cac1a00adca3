"""docs/coming-from-the-papers-repository.md: what its table offers is there, and what it lacks is not."""

import dataclasses
import re

import pytest

from muloco.training.config import Config
from muloco.training.load import CHECKOUT, load_config

ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (CHECKOUT / "docs/coming-from-the-papers-repository.md").read_text().splitlines()
    if line.startswith("| `")
]


OPTIONS = {
    f"--{section.name}.{option.name}"
    for section in dataclasses.fields(Config)
    for option in dataclasses.fields(section.default_factory)
}


def codes(cell: str) -> list[str]:
    return [word for code in re.findall(r"`([^`]+)`", cell) for word in code.split()]


def test_what_the_table_offers_exists() -> None:
    offered = [word for _, ours in ROWS for word in codes(re.split(r"[^;|]*not there yet", ours)[0])]
    files = [word for word in offered if re.match(r"(config|jobs|docs|muloco)/", word)]
    options = [word for word in offered if re.match(r"--\w+\.\w+$", word) and word != "--section.field"]
    assert len(files) > 15 and [file for file in files if not (CHECKOUT / file).exists()] == []
    assert len(options) > 30 and [option for option in options if option not in OPTIONS] == []


def test_what_the_table_says_is_not_there_yet_is_not() -> None:
    """Fails once it is: then the row has to say how."""
    missing = [word.strip(",") for old, ours in ROWS if ours.startswith("not there yet") for word in codes(old)]
    assert [word for word in missing if word.startswith("jobs/") and (CHECKOUT / word).exists()] == []
    assert [word for word in missing if f"--{word}" in OPTIONS] == []


@pytest.mark.parametrize("old, ours", [row for row in ROWS if row[0].startswith("`config/d")])
def test_configs_of_the_table(old: str, ours: str) -> None:
    (path,) = codes(old)
    assert ours == old and load_config(path)
