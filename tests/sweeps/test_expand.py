"""From points to jobs: as the command line would read them, and nothing unusable among them."""

from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.resolve import resolve
from muloco.settings.fields import flatten
from muloco.settings.load import load_config
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.expand import Expansion, expand
from muloco.sweeps.sweep import Given, Grid, Sweep, product

CONFIG = "config/laptop/muloco.py"
PROFILE = ClusterProfile(gpus_per_node=8)


def expansion(*points: dict, overrides: tuple[str, ...] = (), name: str = "x", config: str = CONFIG) -> Expansion:
    return expand(Sweep(Grid(name=name, config=config, points=points)), overrides=overrides, profile=PROFILE)


def test_a_job_is_what_its_words_give_on_the_command_line(tmp_path: Path) -> None:
    points = product(
        {
            "optimizer.lr": [0.02, 1],
            "optimizer.weight_decay": [None, 1e-4],
            "outer_optimizer.nesterov": [False],
            "fault_tolerance.module_fqns_per_model_fragment": [
                ["tok_embeddings,layers.0", "layers.1,layers.2,norm,lm_head"]
            ],
            "compression.kind": ["topk"],
            "training.steps": [Given(60, "rule: short")],
        }
    )
    overrides = ("--run.outputs", str(tmp_path), "--validation.sequences=16", "--metrics.tensorboard", "false")
    found = expansion(*points, overrides=overrides)
    assert len(found.jobs) == 4 and not found.refused
    for job, point in zip(found.jobs, points, strict=True):
        words = [*job.overrides, "--run.name", job.name, "--run.outputs", str(tmp_path)]
        assert flatten(resolve(load_config(str(job.config), words))) == flatten(job.resolved)
        assert job.resolved.optimizer.lr == point["optimizer.lr"]
        assert job.resolved.validation.sequences == 16 and job.resolved.metrics.tensorboard is False
        assert job.origins == {"training.steps": "rule: short"}
        assert job.run_folder == tmp_path / job.name


def test_a_value_of_all_jobs_wins_and_its_origin_goes() -> None:
    found = expansion({"training.steps": Given(60, "rule: short")}, overrides=("--training.steps", "90"))
    assert found.jobs[0].resolved.training.steps == 90 and not found.jobs[0].origins


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ({"optimizer.lrr": 0.1}, "unknown field optimizer.lrr; did you mean optimizer.lr?"),
        ({"optimizer.name": "Adam"}, "optimizer.name must be one of AdamW, Muon"),
        ({"optimizer.lr": -1.0}, "optimizer.lr must be above 0; got -1.0"),
        ({"training.global_batch_size": 3}, "must be a multiple of 2 workers"),
        ({"parallelism.data_parallel_replicate_degree": 12, "training.local_batch_size": 1}, "multiple of"),
    ],
)
def test_an_unusable_point_is_listed_with_its_reason_and_stops_no_other(point: dict, reason: str) -> None:
    found = expansion({"optimizer.lr": 0.1}, point, {"optimizer.lr": 0.2})
    assert [job.resolved.optimizer.lr for job in found.jobs] == [0.1, 0.2]
    assert len(found.refused) == 1 and reason in found.refused[0].reason


def test_what_does_not_fit_onto_nodes_is_refused() -> None:
    point = {
        "parallelism.data_parallel_replicate_degree": 12,
        "training.local_batch_size": 1,
        "training.global_batch_size": 24,
        "validation.sequences": 24,
    }
    found = expansion(point)
    assert not found.jobs and "does not fill whole nodes of 8 devices" in found.refused[0].reason


def test_a_config_that_cannot_be_loaded_refuses_all_its_points() -> None:
    found = expansion({"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}, config="config/laptop/nothing.py")
    assert not found.jobs and len(found.refused) == 2 and "there is no config" in found.refused[0].reason


def test_two_points_of_a_grid_that_are_the_same_run_are_an_error_that_names_both() -> None:
    derived = expansion({}).jobs[0].resolved.optimizer.weight_decay
    found = expansion({"optimizer.weight_decay": None}, {"optimizer.weight_decay": derived})
    assert [job.name for job in found.jobs] == ["x"]
    assert found.refused[0].name == f"x_wd{derived:g}" and "the same run as x," in found.refused[0].reason


def test_a_run_that_two_grids_share_is_run_once() -> None:
    sweep = Sweep(Grid(name="a", config=CONFIG, points=[{"optimizer.lr": 0.1}])) + Sweep(
        Grid(name="b", config=CONFIG, points=product({"optimizer.lr": [0.1, 0.2]}))
    )
    found = expand(sweep, profile=PROFILE)
    assert [job.name for job in found.jobs] == ["a", "b_lr0.2"] and found.merged == [("b_lr0.1", "a")]


def test_two_runs_of_one_name_are_refused() -> None:
    grids = [Grid(name="a", config=CONFIG, points=[{"optimizer.lr": lr}]) for lr in (0.1, 0.2)]
    found = expand(Sweep(*grids), profile=PROFILE)
    assert len(found.jobs) == 1 and found.refused[0].name == "a"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("--training.stepss", "3"), "did you mean --training.steps?"),
        (("--run.name", "a"), "run.name is given by the sweep"),
        (("--training.steps", "many"), "many"),
    ],
)
def test_unusable_values_for_all_jobs_are_refused_at_once(overrides: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        expansion({}, overrides=overrides)


def test_paths_become_absolute_so_that_jobs_run_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "books.txt").write_text("text\n")
    monkeypatch.chdir(tmp_path)
    (job,) = expansion({}, overrides=("--data.corpus", "books.txt", "--run.outputs", "runs")).jobs
    assert job.overrides == ("--data.corpus", str(tmp_path / "books.txt"))
    assert job.resolved.run.outputs == str(tmp_path / "runs") and job.config.is_absolute()
