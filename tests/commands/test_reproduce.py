"""The whole of `muloco reproduce` with runs that a formula makes, and interrupted anywhere."""

import csv
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from muloco.cli import build_parser
from muloco.errors import UserError
from muloco.reproduce import hours, queue
from muloco.reproduce.hours import span
from muloco.runs.folder import MetricsWriter, RunFolder, write_json
from muloco.runs.lock import only_one
from muloco.settings.stored import to_dict
from muloco.sweeps import local
from muloco.sweeps.expand import Job
from muloco.sweeps.local import Task

Pretend = Callable[..., list[str]]


def train(job: Job) -> None:
    """Leaves a run whose loss is least at an inner lr of .04, rises with K, and is lower for Muon and with seed 2."""
    config, folder = job.resolved, RunFolder(job.run_folder)
    far = abs(math.log2(config.optimizer.lr / 0.04))
    loss = 4 + 0.1 * far + 0.02 * math.log2(config.workers) + 0.3 * (config.optimizer.name == "AdamW")
    loss += 0.01 * (config.run.seed % 2) * (1 + 0.01 * config.workers)
    write_json(folder.config, {"chosen": {}, "resolved": to_dict(config)})
    writer = MetricsWriter(folder.metrics(0), worker=0, attempt=1)
    writer.write(0, {"validation_loss": 8.0})
    writer.write(150, {"validation_loss": loss})
    writer.close()
    summary = {"steps": 150, "validation_loss": loss, "wall_seconds": 1.0, "lost_steps": 0, "bytes_sent_per_worker": 0}
    write_json(folder.summary, summary)


def analyze(words: tuple[str, ...]) -> None:
    """Leaves a study in which AdamW's workers agree less and interfere more."""
    adamw, muon = (f"{Path(word).parents[1].name}, step 75" for word in words[2:4])
    lines = ["checkpoint,workers,cosine,gap"]
    for place, workers in enumerate((2, 4, 8)):
        lines += [f'"{adamw}",{workers},0.5,{0.4 + 0.1 * place}', f'"{muon}",{workers},0.75,{0.4 + 0.2 * place}']
    out = Path(words[words.index("--out") + 1])
    out.mkdir(parents=True)
    (out / "matrices.csv").write_text("\n".join(lines) + "\n")
    (out / "table.md").write_text("done")


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Pretend:
    """`muloco reproduce --quick ...`, which ends after so many tasks; the names of those it has run."""

    def run(*words: str, most: int = 1000, failing: str = "none") -> list[str]:
        run.names = names = []

        def run_tasks(pending: Callable[[], Iterable[Task]], **_: object) -> dict[str, str]:
            failed: dict[str, str] = {}
            while left := [task for task in pending() if task.name not in failed]:
                if len(names) == most:
                    raise KeyboardInterrupt
                names.append(left[0].name)
                if failing in left[0].name:
                    failed[left[0].name] = "out of luck"
                else:
                    train(jobs[left[0].name]) if left[0].name in jobs else analyze(left[0].words)
                    assert left[0].is_done()
            return failed

        jobs: dict[str, Job] = {}

        def training(job: Job) -> Task:
            jobs[job.name] = job
            return local.training(job)

        monkeypatch.setattr(queue, "training", training)
        monkeypatch.setattr(local, "run_tasks", run_tasks)
        monkeypatch.setattr(hours, "tokens_per_second", lambda size: 1e5)
        args = build_parser()[0].parse_args(["reproduce", "--quick", "--out", str(tmp_path / "paper"), *words])
        run.status = args.run(args)
        run.said = capsys.readouterr().out
        return names

    return run


def test_all_of_it_makes_a_page_with_the_verdicts(paper: Pretend, tmp_path: Path) -> None:
    names = paper()
    assert paper.status == 0 and len(names) == len(set(names)) == 42 + 3
    page = (tmp_path / "paper" / "paper.md").read_text()
    verdicts = {line.split(" | ")[1]: line.split(" | ")[2] for line in page.splitlines() if line.startswith("| tiny |")}
    assert verdicts == {
        "MuLoCo with K = 1 is the best of all": "holds",  # DP Muon's rates end above the best
        "MuLoCo is below DiLoCo at every K": "holds",
        "DiLoCo's gap grows faster with K": "does not hold",
        "MuLoCo's critical batch is larger": "not run",
        "4 bits are free": "holds",
        "Streaming is free": "holds",
        "Muon's workers agree better than AdamW's": "holds",
        "The interference gap grows with K for AdamW and falls for Muon": "does not hold",
    }
    assert "| muloco-K4 | 0.02: 4.1504, 0.04: 4.0504*, 0.08: 4.1504 |  |" in page
    assert "![" in page and (tmp_path / "paper" / "claims.png").stat().st_size > 20_000
    assert "(n=3)" in page and "n=1" not in page
    losses = list(csv.DictReader((tmp_path / "paper" / "runs.csv").open()))
    assert len(losses) == 42
    assert {"setting": "muloco-K4", "inner_lr": "0.04", "seed": "2", "loss": "4.04"} in losses
    assert "Final held-out loss" in (tmp_path / "paper" / "report" / "report.md").read_text()


def test_it_goes_on_where_it_was_stopped(paper: Pretend, tmp_path: Path) -> None:
    done: list[str] = []
    for most in (1, 41):
        with pytest.raises(KeyboardInterrupt):
            paper(most=most)
        done += paper.names
        assert f"\n{len(done)} runs of the flavor tiny" in (tmp_path / "paper" / "paper.md").read_text()
    left = tmp_path / "paper" / "pseudogradients" / "seed-1"
    left.mkdir(parents=True)
    (left / "spectra.csv").write_text("an interrupted study")
    assert paper("--plan") == [] and (left / "spectra.csv").exists()  # another one may be at it
    rest = paper()
    assert "no run is left, at " in paper.said and "; 42 runs are done" in paper.said
    assert rest == [f"pseudogradients of seed {seed}" for seed in (1, 2, 3)] and len(set(done)) == len(done) == 42
    assert paper() == [] and paper.status == 0


def test_a_run_that_fails_is_named_and_the_rest_goes_on(paper: Pretend, tmp_path: Path) -> None:
    names = paper(failing="diloco-K4_")
    assert paper.status == 1 and "failed: diloco-K4_lr0.016_seed1: out of luck" in paper.said
    assert "muloco-K4_lr0.04_seed3" in names and "diloco-K4-J3_lr0.032_seed1" not in names
    assert "| DiLoCo | 4 | not run | not run | not run |" in (tmp_path / "paper" / "paper.md").read_text()


def test_a_plan_alone_runs_nothing(paper: Pretend, tmp_path: Path) -> None:
    assert paper("--plan", "--at-once", "2") == [] and paper.status == 0
    assert "42 runs or more are left, " in paper.said and "with 2 at once" in paper.said
    assert "; nothing has been run yet" in paper.said
    assert not (tmp_path / "paper").exists()


@pytest.mark.parametrize(
    ("least", "most", "said"),
    [
        (700, 730, "about 12 minutes"),
        (600, 900, "10 to 15 minutes"),
        (0, 20, "about 1 minute"),
        (3600, 5400, "1.0 to 1.5 hours"),
        (36000, 36000, "about 10.0 hours"),
    ],
)
def test_a_span_of_time_has_a_unit_in_which_it_can_be_read(least: float, most: float, said: str) -> None:
    assert span(least, most) == said


@pytest.mark.parametrize("done", [True, False])
def test_another_run_in_the_folder_of_one_is_refused(paper: Pretend, tmp_path: Path, done: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        paper(most=1)
    (folder,) = (tmp_path / "paper" / "runs").iterdir()
    stored = json.loads((folder / "config.json").read_text())
    stored["resolved"]["training"] |= {"steps": 7, "tokens": 7 * 16 * 128}
    write_json(folder / "config.json", stored)
    if not done:
        (folder / "summary.json").unlink()
    with pytest.raises(UserError, match="holds another run: .*training.steps 7, here 150"):
        paper()
    with pytest.raises(UserError, match="--at-once must be at least 1; got 0"):
        paper("--at-once", "0")


def test_runs_of_two_corpora_are_not_compared(paper: Pretend, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        paper(most=2)
    summary = next((tmp_path / "paper" / "runs").glob("*/summary.json"))
    write_json(summary, {**json.loads(summary.read_text()), "corpus_sha256": ["aa"]})
    with pytest.raises(UserError, match="has runs of different corpora; choose another --out"):
        paper()
    assert paper.names == []


def test_two_do_not_work_in_one_folder(paper: Pretend, tmp_path: Path) -> None:
    with only_one(tmp_path / "paper" / ".running", "busy"):
        with pytest.raises(UserError, match="another `muloco reproduce` works in"):
            paper()
        assert paper.names == []
