"""A path that cannot be read or written is answered with one line that names it, status 2, and nothing is written."""

from pathlib import Path

import pytest

from muloco.analysis.output import writing
from muloco.cli import main
from muloco.errors import UserError

from .runs_on_disk import finished, muloco

CONFIG = "config/laptop/muloco.py"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "{root}/run", "--out", "{root}/a-file"], "--out: {root}/a-file is not a folder"),
        (["report", "{root}/run", "--out", "{root}/a-file/below"], "--out: {root}/a-file is not a folder"),
        (["report", "{root}/run", "--out", "{root}/" + "x" * 300], "File name too long"),
        (["report", "{root}/run", "--out", "{root}/run"], "--out: {root}/run holds files that no report has written"),
        (["report", "{root}/run", "--out", "{root}/damaged"], "--out: {root}/damaged/.muloco-report.json is damaged"),
        (["plan", CONFIG, "--plot", "{root}/plan.pdf"], "--plot must end in .png or .svg; got {root}/plan.pdf"),
        (["plan", CONFIG, "--plot", "{root}/plan"], "--plot must end in .png or .svg"),
        (["plan", CONFIG, "--plot", "{root}/a-file/plan.png"], "--plot: {root}/a-file is not a folder"),
        (["plan", CONFIG, "--plot", "{root}/a-folder.png"], "--plot: {root}/a-folder.png is a folder"),
        (["reproduce", "--out", "{root}/a-file"], "--out: {root}/a-file is not a folder"),
    ],
)
def test_what_cannot_be_written(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path / "run", muloco(), 3.0)
    (tmp_path / "a-file").write_text("mine")
    (tmp_path / "a-folder.png").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / ".muloco-report.json").write_text("[")
    before = sorted(tmp_path.rglob("*"))
    assert main([word.format(root=tmp_path) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said.format(root=tmp_path) in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "not a run: {root}/nowhere: no such folder"),
        ("a-file", "not a run: {root}/a-file: a file"),
        ("empty", "not a run: {root}/empty: neither it nor a folder in it has a config.json"),
        ("torn", "broken: {root}/torn: config.json is not JSON"),
        ("infinite", "broken: {root}/infinite: cannot convert float infinity to integer"),
    ],
)
def test_what_cannot_be_read(name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a-file").write_text("mine")
    (tmp_path / "empty").mkdir()
    finished(tmp_path / "torn", muloco(), 3.0)
    (tmp_path / "torn" / "config.json").write_bytes(b"\xff{")
    finished(tmp_path / "infinite", muloco(), 3.0, bytes_sent_per_worker=float("inf"))
    assert main(["report", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    first, last = capsys.readouterr().out.splitlines()
    assert said.format(root=tmp_path) in first and last.startswith("nothing to report")
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_too_long_for_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "x" * 300]) == 2
    assert "File name too long" in capsys.readouterr().err


def test_what_the_file_system_refuses_on_the_way_is_said(tmp_path: Path) -> None:
    said = r"^--out: .*missing/file cannot be written: No such file or directory$"
    with pytest.raises(UserError, match=said), writing("--out", tmp_path):
        (tmp_path / "missing" / "file").write_text("")
