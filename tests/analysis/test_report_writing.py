"""The report's folder: what is written, what is left alone, and what the command says."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from muloco.analysis import published
from muloco.analysis.chart import Figure, Panel, Series
from muloco.analysis.draw import draw
from muloco.cli import main
from muloco.sweeps.folder import SweepFolder, default_folder
from muloco.sweeps.runs import run_folders
from muloco.sweeps.settings import Settings

from .runs_on_disk import data_parallel, finished, muloco, written


class References(HTMLParser):
    """All that a page would load or link to, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished runs, in two corpora, and one that has just begun."""
    root = tmp_path_factory.mktemp("reported")
    finished(root / "runs" / "dp", data_parallel(), 2.5)
    finished(root / "runs" / "muloco", muloco(), 2.6)
    finished(root / "runs" / "other", muloco(validation__sequences=64), 2.3)
    written(root / "runs" / "begun", muloco(lr=0.5))
    assert main(["report", str(root / "runs"), "--out", str(root / "out")]) == 0
    return root


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_csv_reads_back_cell_by_cell(reported: Path) -> None:
    lines = rows(reported / "out" / "tables" / "final_loss.csv")
    assert [(line["method"], line["K"], line["scale"], line["measured"], line["published"]) for line in lines] == [
        ("DP Muon", "", "416M", "2.5", "2.641"),
        ("MuLoCo", "2", "416M", "2.6", "2.6416"),
        ("MuLoCo", "2", "416M", "2.3", "2.6416"),
    ]
    assert len({line["section"] for line in lines}) == 2
    over = rows(reported / "out" / "tables" / "over_dp.csv")
    assert float(over[0]["measured"]) == pytest.approx(4.0)
    assert (over[1]["measured"], over[1]["note"]) == ("", "no DP Muon")


def test_what_is_missing_is_in_the_report(reported: Path) -> None:
    (problem,) = rows(reported / "out" / "tables" / "problems.csv")
    assert problem["what"] == "unfinished" and problem["folder"].endswith("begun")
    for name in ("report.md", "report.html"):
        text = (reported / "out" / name).read_text()
        assert "3 finished runs; 1 unfinished" in text
        assert "power_laws, power_law: needs a method at 3 scales" in text


def test_the_page_needs_nothing_else(reported: Path) -> None:
    page = References()
    page.feed((reported / "out" / "report.html").read_text())
    assert {reference.split(",")[0] for reference in page.references} <= {"data:image/svg+xml;base64", "#s0", "#s1"}
    assert "img" in page.tags
    assert not {"script", "link", "iframe"} & set(page.tags)
    style = (reported / "out" / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "2.6000 [2.6416]" in page.text


def test_markdown_names_pictures_that_are_there(reported: Path) -> None:
    named = re.findall(r"\]\((figures/[^)]+)\)", (reported / "out" / "report.md").read_text())
    assert "figures/loss_curves-1.png" in named and "figures/wall_clock-2.png" in named
    for name in named:
        assert (reported / "out" / name).read_bytes().startswith(b"\x89PNG")
        ElementTree.parse((reported / "out" / name).with_suffix(".svg"))


def test_a_report_replaces_its_own_files_and_no_others(reported: Path) -> None:
    out = reported / "out"
    (out / "tables" / "mine.csv").write_text("mine")
    assert main(["report", str(reported / "runs" / "dp"), "--out", str(out)]) == 0
    assert (out / "tables" / "mine.csv").read_text() == "mine"
    assert not (out / "tables" / "problems.csv").exists()
    assert not (out / "figures" / "loss_curves-1.png").exists() and (out / "figures" / "loss_curves.png").exists()


def test_a_folder_of_others_is_left_alone(reported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "report.md").write_text("mine")
    assert main(["report", str(reported / "runs"), "--out", str(tmp_path)]) == 2
    assert "no report has written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs a RUN"),
        (["--publishd"], "did you mean --published"),
        (["nowhere.py"], "there is no sweep nowhere.py"),
    ],
)
def test_a_command_that_cannot_be_used_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", *words]) == 2
    assert said in capsys.readouterr().err


def test_nothing_to_report_is_said_and_nothing_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    written(tmp_path / "begun", muloco())
    assert main(["report", str(tmp_path / "begun"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().out
    assert "unfinished" in said and "nothing to report" in said
    assert not (tmp_path / "out").exists()


def test_the_runs_of_a_sweep_are_found_by_its_file(tmp_path: Path) -> None:
    """With the settings of its last dry run: here, where its runs are to lie."""
    sweep = tmp_path / "two.py"
    sweep.write_text(
        "from muloco.sweeps.sweep import Grid, Sweep, product\n"
        "def sweep():\n"
        "    points = product({'optimizer.lr': [0.02, 0.04]})\n"
        "    return Sweep(Grid(name='muloco', config='config/laptop/muloco.py', points=points))\n"
    )
    folder = SweepFolder(default_folder(tmp_path / "two.py"))
    folder.settings = Settings(overrides={"--run.outputs": [str(tmp_path / "outputs")]})
    folder.save()
    folders, problems = run_folders(str(sweep))
    assert folders == [] and [problem.kind for problem in problems] == ["not started"] * 2
    (tmp_path / "outputs" / "muloco_lr0.04").mkdir(parents=True)
    folders, (problem,) = run_folders(str(sweep))
    assert folders == [tmp_path / "outputs" / "muloco_lr0.04"]
    assert problem.folder == str(tmp_path / "outputs" / "muloco_lr0.02")


def test_without_runs_the_papers_own_tables_are_written(tmp_path: Path) -> None:
    assert main(["report", "--published", "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    for by_scale in published.FINAL_LOSS.values():
        assert all(f"[{loss:.4f}]" in text for loss in by_scale.values())
    drawn = {path.stem for path in (tmp_path / "out" / "figures").glob("*.svg")}
    names = ("loss_against_batch", "worker_scaling", "compression", "power_laws", "critical_batch", "iso_loss")
    assert drawn == {f"{name}-paper" for name in (*names, "wall_clock")}


def test_a_figure_is_drawn_the_same_each_time(tmp_path: Path) -> None:
    line = Series(label="ours", x=[1, 2, 4], y=[3.0, 2.0, 1.0], spread=[0.1, None, 0.2])
    theirs = Series(label="ours", x=[1, 2], y=[2.5, 2.0], published=True)
    panel = Panel(title="a", xlabel="K", ylabel="loss", series=[line, theirs], xlog=2)
    figure = Figure(name="figure", title="", panels=[panel] * 4, caption="")
    drawn = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        drawn.append([path.read_bytes() for path in draw(figure, tmp_path / name)])
    assert drawn[0] == drawn[1]
    assert b"ours (paper)" in drawn[0][1]
