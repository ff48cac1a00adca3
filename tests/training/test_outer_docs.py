"""The fields of a sync: docs/outer-loop.md has a row for each that the run folder describes."""

import re

from muloco.runs.folder import __doc__ as RUN_FOLDER
from muloco.settings.load import CHECKOUT

TEXT = (CHECKOUT / "docs" / "outer-loop.md").read_text()


def test_the_fields_of_a_sync_are_those_of_the_run_folder() -> None:
    table = TEXT.split("## What the metrics say")[1]
    listed = {name for cell in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"\w+", cell)}
    (sync_lines,) = re.findall(r"sync lines:\s+event \"sync\", (.*?)\n    \w+ lines:", RUN_FOLDER, re.S)
    described = set(re.findall(r"\w+", re.sub(r"\(.*?\)", "", sync_lines, flags=re.S)))
    assert listed - {"step"} == described
