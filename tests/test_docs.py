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
KINDS = (".py", ".md", ".sh", ".toml")
FOLDERS = ("muloco", "config", "jobs", "docs", "benchmarks", "tests", "results")
SOURCES = [path for path in sorted(CHECKOUT.glob("*")) if path.suffix in KINDS] + [
    path
    for folder in FOLDERS
    for path in sorted((CHECKOUT / folder).rglob("*"))
    if path.suffix in KINDS and path.is_file() and "generated_job_files" not in path.parts
]


def anchors(text: str) -> set[str]:
    """What a link to a document can name: its explicit anchors, and headings as GitHub and mkdocs write them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    slugs = {re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)"></a>', prose))


_NUMBER = r"\d+(?:\.\d+)?"
_BREAK = r"\s+(?:#\s*)?"
REFERENCE = re.compile(rf"\bPAPER{_BREAK}{_NUMBER}(?:(?:,|{_BREAK}and|{_BREAK}to){_BREAK}{_NUMBER})*")


def references(text: str) -> list[tuple[int, str]]:
    """Line and section of every `PAPER n` and `PAPER n.m`; one reference may name several sections."""
    found = []
    for reference in REFERENCE.finditer(text):
        for number in re.finditer(_NUMBER, reference[0]):
            line = text.count("\n", 0, reference.start() + number.start()) + 1
            found.append((line, number[0]))
    return found


def anchor_of(number: str) -> str:
    return f"paper-{number.replace('.', '-')}"


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
    links = re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", document.read_text())
    for file, anchor in links:
        if "://" not in file:
            target = document.parent / file if file else document
            assert target.exists(), file
            assert not anchor or anchor in anchors(target.read_text()), f"{file}#{anchor}"


def test_references_to_the_paper_lead_to_a_section() -> None:
    sections = anchors((CHECKOUT / "docs" / "paper.md").read_text())
    found = [(file, *at) for file in SOURCES for at in references(file.read_text(encoding="utf-8"))]
    assert {file.relative_to(CHECKOUT).parts[0] for file, _, _ in found} == set(FOLDERS), "all are searched"
    unknown = [f"{file}:{line}: PAPER {number}" for file, line, number in found if anchor_of(number) not in sections]
    assert unknown == [], "docs/paper.md has no such section"


def test_references_are_found_in_lists_ranges_and_over_line_breaks() -> None:
    text = "# (PAPER 2.2 to 2.4, 3.1 and 11), 1/sqrt 2\nPAPER = 4\n# as in (PAPER\n    # 5.10): 3\n"
    assert references(text) == [(1, "2.2"), (1, "2.4"), (1, "3.1"), (1, "11"), (4, "5.10")]
