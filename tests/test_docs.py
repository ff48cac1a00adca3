"""What the documents refer to is there, and their generated tables are current."""

import re
import runpy
from pathlib import Path

import pytest

from muloco.settings.config import Config
from muloco.settings.fields import flatten
from muloco.settings.load import CHECKOUT
from muloco.settings.other_names import PAPER

TABLES = runpy.run_path(str(CHECKOUT / "docs" / "tables.py"))
DOCUMENTS = TABLES["documents"]()
FIELDS = set(flatten(Config()))
SECTIONS = {field.split(".")[0] for field in FIELDS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_generated_tables_are_current(document: Path) -> None:
    text = document.read_text()
    assert text == TABLES["current"](text), "run `make docs-tables`"


def test_every_table_is_shown() -> None:
    named = {name for path in DOCUMENTS for _, name, _ in TABLES["BLOCK"].findall(path.read_text())}
    assert named == set(TABLES["TABLES"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_fields_of_the_config_exist(document: Path) -> None:
    named = re.findall(r"(?:--|`)((\w+)\.[a-z_.]*[a-z_])(?=[` ])", document.read_text())
    fields = {name for name, section in named if section in SECTIONS and not name.endswith((".py", ".step"))}
    groups = {field.rpartition(".")[0] for field in FIELDS}
    assert fields - FIELDS - set(PAPER) - groups == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", document.read_text())
    files = [link for link in links if "://" not in link]
    assert [file for file in files if not (document.parent / file).exists()] == []
