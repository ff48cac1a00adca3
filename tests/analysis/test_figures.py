"""The look of figures: one color a method, margins, gaps, and whatever number of points there is."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from muloco.analysis.chart import Bars, Boxes, Figure, Panel, Series
from muloco.analysis.draw import draw
from muloco.analysis.palette import COLORS, looks
from muloco.analysis.plots import plot_loss
from muloco.analysis.pseudogradients.figures import steps
from muloco.analysis.pseudogradients.proposition import Step
from muloco.analysis.pseudogradients.study import MatrixFigures, Study
from muloco.runs.folder import MetricsWriter, RunFolder

from .runs_on_disk import diloco, written


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The sheets that are saved, as Matplotlib has them."""
    found: list[Any] = []
    monkeypatch.setattr("muloco.analysis.draw.save", lambda sheet, *paths: found.append(sheet))
    return found


def test_a_method_has_one_color_in_every_figure() -> None:
    """Whatever else is drawn; other K are shades of it, other settings have the same color and another dash."""
    alone = looks(["MuLoCo"])["MuLoCo"]
    among = looks(["DP AdamW", "GPA K=1", "DiLoCo K=8", "MuLoCo K=8", "MuLoCo K=8, J=3", "MuLoCo", "SGD K=2"])
    assert alone.color == among["MuLoCo"].color == among["MuLoCo K=8"].color == among["MuLoCo K=8, J=3"].color
    assert among["MuLoCo K=8"].dash != among["MuLoCo K=8, J=3"].dash
    assert among["DP AdamW"].color == COLORS["DP AdamW"] and len(set(COLORS.values())) == len(COLORS)


def test_lines_of_the_paper_can_be_told_apart() -> None:
    names = [f"{method} K={k}" for method in ("MuLoCo", "DiLoCo") for k in (1, 2, 4, 8, 16)] + ["DP Muon", "DP AdamW"]
    found = looks(names)
    assert len({(look.color, look.marker) for look in found.values()}) == len(names)
    assert len({look.color for look in found.values()}) == len(names)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("DP Muon, other roles", "DP Muon"),
        ("DiLoCo (Muon, other roles) K=8, H=60", "DiLoCo"),
        ("MuLoCo (outer adamw)", "MuLoCo"),
        ("local SGD (Muon)", "local SGD"),
    ],
)
def test_variants_of_a_method_have_its_color(name: str, method: str) -> None:
    assert looks([name, method])[name].color == COLORS[method]
    assert looks([name, method])[name].dash != looks([name, method])[method].dash


@pytest.mark.parametrize("points", [0, 1, 2, 40])
@pytest.mark.parametrize("log", [None, 2, 10])
def test_any_number_of_points_is_drawn(points: int, log: int | None, tmp_path: Path) -> None:
    x = [2.0**n for n in range(points)]
    line = Series(label="MuLoCo K=2", x=x, y=[3.0 + n for n in range(points)], points=False)
    broken = Series(label="DiLoCo K=2, tau=5", x=[1.0, 2.0], y=[math.nan, math.inf])
    panel = Panel(title="a", xlabel="x", ylabel="y", series=[line, broken], xlog=log, ylog=log)
    png, svg = draw(Figure(name="a", title="", panels=[panel], caption=""), tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"tau: inner steps" in svg.read_bytes(), "the legend explains its symbols"


def test_bars_stand_side_by_side_at_their_categories(drawn: list[Any], tmp_path: Path) -> None:
    bars = [Bars(label=label, heights=heights) for label, heights in (("a", [1.0, None]), ("b", [2.0, 3.0]))]
    draw(
        Figure(name="a", title="", panels=[Panel(title="", xlabel="", ylabel="", series=bars, categories="xy")]),
        tmp_path,
    )
    (axes,) = drawn[0].axes
    places = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in axes.patches]
    assert places == [(pytest.approx(-0.175), 1), (pytest.approx(0.175), 2), (pytest.approx(1.175), 3)]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["x", "y"]


def test_boxes_show_quartiles_mean_and_what_they_are_compared_with(drawn: list[Any], tmp_path: Path) -> None:
    boxes = Boxes(label="a", values=[[1.0, 2.0, 3.0, 6.0], []], crosses=[9.0, None], crosses_label="paper")
    draw(
        Figure(name="a", title="", panels=[Panel(title="", xlabel="", ylabel="", series=[boxes], categories="xy")]),
        tmp_path,
    )
    (axes,) = drawn[0].axes
    (box,) = axes.patches
    assert {y for _, y in box.get_path().vertices} == {1.75, 3.75}
    points = {line.get_marker(): list(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == 1}
    assert points["."] == [3.0] and points["x"] == [9.0]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["a", "paper"]


def test_lines_of_orthonormal_steps_are_not_on_the_frame(drawn: list[Any], tmp_path: Path) -> None:
    """All of size 1."""
    zero = dict.fromkeys(MatrixFigures.__dataclass_fields__, 0.0)
    matrix = MatrixFigures(**{**zero, "workers": 1, "matrix": "w", "rank": 4})  # type: ignore[arg-type]
    moved = [Step(worker=0, step=n, alpha=0.1, norm=2.0, rho=1, decay=0) for n in (1, 2, 3)]
    study = Study(run="a", optimizer="Muon", steps=3, matrices=[matrix], measured={1: {"w": moved}})
    draw(steps([study]), tmp_path)
    (axes,) = drawn[0].axes
    bottom, top = axes.get_ylim()
    assert all(bottom + 0.02 * top < y < 0.98 * top for line in axes.lines for y in line.get_ydata())


def run_with(root: Path, losses: dict[int, dict[int, float]]) -> RunFolder:
    """A DiLoCo run with training losses by worker and step."""
    written(root, diloco())
    for worker, by_step in losses.items():
        writer = MetricsWriter(RunFolder(root).metrics(worker), worker=worker, attempt=1)
        for step, loss in by_step.items():
            writer.write(step, {"loss": loss})
        writer.write(max(by_step), {"local_validation_loss": 2.0 + worker})
        writer.write(max(by_step), {"validation_loss": 2.0})
        writer.close()
    return RunFolder(root)


def test_a_lost_worker_has_a_gap_and_the_mean_goes_on(drawn: list[Any], tmp_path: Path) -> None:
    """Worker 1 is away at steps 30 and 40; logged every ten steps."""
    all_steps = {step: 4.0 for step in range(10, 70, 10)}
    away = {step: 6.0 for step in all_steps if step not in (30, 40)}
    plot_loss(run_with(tmp_path, {0: all_steps, 1: away}))
    lines = {line.get_label(): list(line.get_ydata()) for line in drawn[0].axes[0].lines}
    one = next(y for y in (list(line.get_ydata()) for line in drawn[0].axes[0].lines) if 6.0 in y)
    assert [math.isnan(y) for y in one] == [False, False, True, True, False, False]
    assert lines["training, mean of the workers"] == [5.0, 5.0, 4.0, 4.0, 5.0, 5.0]
    assert lines["held-out, own weights (mean of the workers)"] == [2.5]


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_loss_is_drawn_in_the_color_of_the_method(workers: int, drawn: list[Any], tmp_path: Path) -> None:
    """With one entry of the legend for all workers."""
    plot_loss(run_with(tmp_path, {worker: {1: 5.0, 2: 4.0} for worker in range(workers)}))
    axes = drawn[0].axes[0]
    assert {line.get_color() for line in axes.lines if "training" in line.get_label()} == {COLORS["DiLoCo"]}
    assert len(drawn[0].legends[0].get_texts()) == (3 if workers == 1 else 4)


@pytest.mark.parametrize(("syncs", "marked"), [(1, True), (40, True), (41, False), (500, False)])
def test_syncs_are_short_ticks_or_a_number_in_the_legend(
    syncs: int, marked: bool, drawn: list[Any], tmp_path: Path
) -> None:
    """They do not reach into the plot like lines of the grid, nor stretch the axis of losses to zero."""
    run = run_with(tmp_path, {0: {1: 5.0, 500: 4.0}})
    writer = MetricsWriter(run.metrics(0), worker=0, attempt=1)
    for step in range(1, syncs + 1):
        writer.write(step, {"event": "sync"})
    writer.close()
    plot_loss(run)
    axes = drawn[0].axes[0]
    ticks = [line for line in axes.lines if line.get_marker() == "|"]
    assert [len(line.get_xdata()) for line in ticks] == ([syncs] if marked else [])
    told = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert ("sync" in told) == marked and (f"{syncs} syncs, not marked" in told) != marked
    assert axes.get_ylim()[0] > 1


def test_a_run_of_one_step_is_drawn(tmp_path: Path) -> None:
    assert plot_loss(run_with(tmp_path, {0: {1: 5.0}})).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "tkagg"])
def test_figures_ask_for_no_display(backend: str, tmp_path: Path) -> None:
    """As where a notebook has set a backend that is not known here, which it keeps."""
    run_with(tmp_path, {0: {1: 5.0}})
    code = (
        "import os, sys; from muloco.analysis.plots import plot_loss; from muloco.runs.folder import RunFolder;"
        f"plot_loss(RunFolder({str(tmp_path)!r})); assert 'matplotlib.pyplot' not in sys.modules;"
        "print(os.environ['MPLBACKEND'])"
    )
    environment = {"MPLBACKEND": backend, "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.stdout == f"{backend}\n", run.stderr
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
