"""What a resume may change and what it means, and that it finds its folder and its data wherever they lie."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from muloco.cli import main
from muloco.data.tokenizer import train_tokenizer
from muloco.errors import UserError
from muloco.resolve import resolve
from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.runs.folder import RunFolder, write_json
from muloco.runs.manifest import GLOBAL, Save
from muloco.settings.config import Config
from muloco.settings.fields import flatten, identity
from muloco.settings.load import find_config, load_config, locate
from muloco.training.data import prepare_data
from muloco.training.resuming import (
    LENGTH,
    LOCATIONS,
    Resumption,
    check_content,
    config_json,
    content_of,
    take_up,
)
from muloco.training.schedule import inner_learning_rate

from ..run_on_disk import BYTES, add_empty_part

MULOCO = "config/laptop/muloco.py"
TINY = {
    "model.flavor": "tiny",
    "training.seq_len": 64,
    "training.global_batch_size": 8,
    "training.local_batch_size": 2,
    "training.steps": 40,
    "validation.sequences": 16,
}
TOKENS = 8 * 64
"""Of a step."""


def words(values: dict[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def add_checkpoint(folder: RunFolder, step: int) -> None:
    """As far as it counts: what is in it is not looked at."""
    checkpoints = CheckpointFolder(folder.checkpoint)
    save = Save(step=step, attempt=1, history="", parts=[GLOBAL])
    add_empty_part(checkpoints, save, GLOBAL)
    assert checkpoints.complete(save)


def start(root: Path, *, step: int | None = 20, content: dict | None = None, **overrides: object) -> RunFolder:
    """The folder of a run that was stopped behind the checkpoint of a step."""
    values = {**TINY, **{name.replace("__", "."): value for name, value in overrides.items()}}
    chosen = load_config(MULOCO, words({**values, "run.name": root.name, "run.outputs": root.parent}))
    config, folder = resolve(chosen), RunFolder(root)
    if content is None and overrides.get("data__corpus"):
        content = content_of(prepare_data(config))
    write_json(folder.config, config_json(chosen, config, content or {}))
    if step is not None:
        add_checkpoint(folder, step)
    return folder


def resume(folder: RunFolder, *overrides: str) -> Resumption:
    config = load_config(str(folder.config), overrides)
    locate(config, find_config(str(folder.config)), overrides)
    return take_up(config)


def contents(folder: RunFolder) -> dict[str, str]:
    """A digest of every file."""
    files = sorted(path for path in folder.root.rglob("*") if path.is_file())
    return {str(path.relative_to(folder.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["--run.seed", "7"], "run.seed 42 -> 7"),
        (["--validation.sequences", "32"], "validation.sequences 16 -> 32"),
        (
            ["--outer_optimizer.lr", "0.1", "--optimizer.lr", "0.01"],
            "optimizer.lr 0.02 -> 0.01, outer_optimizer.lr 0.7",
        ),
        (["--fault_tolerance.sync_steps", "7"], "fault_tolerance.sync_steps 30 -> 7"),
        (["--fault_tolerance.group_size", "4"], "fault_tolerance.group_size 2 -> 4"),
        (["--compression.kind", "bf16"], "compression.kind 'none' -> 'bf16'"),
        (["--training.max_norm", "None"], "training.max_norm 1.0 -> None"),
        (["--data.text_field", "body"], "data.text_field 'text' -> 'body'"),
        (["--training.steps", "19"], "training.steps is 19, but the run has a checkpoint of step 20"),
        (["--training.tokens", str(19 * TOKENS)], "training.steps is 19, but the run has a checkpoint of step 20"),
        (["--checkpoint.enable", "False"], "checkpoint.enable True -> False"),
        (["--data.tokenizer", "nowhere"], "nowhere"),
        (["--data.corpus", "x" * 5000], "data.corpus"),
        (["--run.name", "absent"], "there is no run to resume in"),
        (["--run.name", ".."], "run.name"),
        (["--run.name", "a" * 300], "run.name"),
    ],
)
def test_what_would_change_the_run_is_refused_and_leaves_no_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    folder = start(tmp_path / "outputs" / "a")
    before = contents(folder)
    assert main(["train", str(folder.config), "--resume", *overrides]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("muloco: ") and captured.err.count("\n") == 1
    assert said in captured.err
    assert contents(folder) == before and [path.name for path in tmp_path.rglob("*") if path.is_dir()].count("a") == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder.checkpoint / "step-20" / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda folder: folder.config.write_text('{"resolved"'), "config.json"),
    ],
)
def test_damaged_files_are_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[RunFolder], None], said: str
) -> None:
    folder = start(tmp_path / "outputs" / "a")
    damage(folder)
    before = contents(folder)
    if said == "config.json":
        with pytest.raises(UserError, match=said):
            take_up(load_config(MULOCO, words({"run.name": "a", "run.outputs": tmp_path / "outputs"})))
    else:
        assert main(["train", str(folder.config), "--resume"]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and said in captured.err
    assert contents(folder) == before


def test_a_damaged_summary_is_written_anew(tmp_path: Path) -> None:
    folder = start(tmp_path / "a")
    folder.summary.write_text("")
    resumption = resume(folder)
    assert not resumption.ended
    assert any(f"{folder.summary} is empty" in remark for remark in resumption.remarks)


def test_the_length_and_the_places_of_data_are_fields_that_identify_a_run() -> None:
    assert {*LENGTH, *LOCATIONS} <= identity(Config()).keys()


def test_a_derived_rule_has_not_changed_since_a_version_that_left_it_open(tmp_path: Path) -> None:
    """Earlier versions wrote null for the rule of a role that follows from optimizer.name."""
    folder = start(tmp_path / "a", optimizer__embedding__rule="lion")
    stored = json.loads(folder.config.read_text())
    assert stored["resolved"]["optimizer"]["matrix"]["rule"] == "muon"
    for role in ("matrix", "head", "scalar"):
        stored["resolved"]["optimizer"][role]["rule"] = None
    folder.config.write_text(json.dumps(stored))
    resumption = resume(folder)
    rules = {name: role.rule for name, role in resumption.config.optimizer.roles().items()}
    assert rules == {**dict.fromkeys(rules, "adamw"), "matrix": "muon", "router": "muon", "embedding": "lion"}
    assert not any("changed" in remark for remark in resumption.remarks)
    with pytest.raises(UserError, match="optimizer.matrix.rule 'muon' -> 'adamw'"):
        resume(folder, "--optimizer.matrix.rule", "adamw")


def test_what_has_no_part_in_the_result_may_change(tmp_path: Path) -> None:
    folder = start(tmp_path / "a")
    changes = {
        "metrics.log_freq": 3,
        "checkpoint.interval": 5,
        "validation.freq": 4,
        "training.local_batch_size": 1,
        "optimizer.symmetric_products": "matmul",
        "fault_tolerance.transport": "in_process",
        "fault_tolerance.exchange_timeout_seconds": 5.0,
        "fault_tolerance.stall_timeout_seconds": 900.0,
    }
    resumption = resume(folder, *words(changes))
    resolved, chosen = flatten(resumption.config), flatten(resumption.chosen)
    for name, value in changes.items():
        assert resolved[name] == value and chosen[name] == value
    assert chosen["optimizer.weight_decay"] is None, "what was left open stays open"
    (remark,) = resumption.remarks
    assert all(name in remark for name in changes)


def test_a_resume_without_changes_is_the_run_as_it_was(tmp_path: Path) -> None:
    folder = start(tmp_path / "a")
    resumption = resume(folder)
    stored = json.loads(folder.config.read_text())
    again = config_json(resumption.chosen, resumption.config, {})
    assert json.loads(json.dumps(again)) == stored and resumption.remarks == () and not resumption.ended


@pytest.mark.parametrize("given", ["steps", "tokens"])
@pytest.mark.parametrize("more", ["steps", "tokens"])
@pytest.mark.parametrize("reached", [20, 40])
def test_a_run_is_extended_whatever_its_length_was_given_in(
    tmp_path: Path, given: str, more: str, reached: int
) -> None:
    length = {"training__steps": 40} if given == "steps" else {"training__steps": None, "training__tokens": 40 * TOKENS}
    folder = start(tmp_path / "a", step=reached, **length)
    write_json(folder.summary, {"steps": reached})
    assert resume(folder).ended == (reached == 40)
    value = 100 if more == "steps" else 100 * TOKENS
    resumption = resume(folder, f"--training.{more}", str(value))
    config = resumption.config
    assert (config.training.steps, config.training.tokens) == (100, 100 * TOKENS) and not resumption.ended
    before = resolve(load_config(str(folder.config)))
    rates = [inner_learning_rate(before, reached), inner_learning_rate(config, reached + 1)]
    (remark,) = resumption.remarks
    assert all(f"{rate:.3g}" in remark for rate in rates) and "training.steps 40 -> 100" in remark

    write_json(folder.config, config_json(resumption.chosen, config, {}))
    once_more = resume(folder, "--training.steps", "120")
    assert once_more.config.training.tokens == 120 * TOKENS
    assert resolve(once_more.chosen).training.steps == 120


def test_an_extended_run_may_keep_its_schedule(tmp_path: Path) -> None:
    folder = start(tmp_path / "a", step=40)
    resumption = resume(folder, "--training.steps", "100", "--lr_scheduler.total_steps", "40")
    before = resolve(load_config(str(folder.config)))
    for step in range(1, 41):
        assert inner_learning_rate(resumption.config, step) == inner_learning_rate(before, step)
    assert inner_learning_rate(resumption.config, 100) == 0.1 * 0.02
    write_json(folder.config, config_json(resumption.chosen, resumption.config, {}))
    assert inner_learning_rate(resume(folder, "--training.steps", "200").config, 200) == 0.1 * 0.02


def test_a_run_that_has_ended_ends_well_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = start(tmp_path / "a", step=40)
    write_json(folder.summary, {"steps": 40})
    folder.metrics(0).parent.mkdir()
    folder.metrics(0).write_text(json.dumps({"attempt": 1, "step": 40, "worker": 0, "loss": 1.0}) + "\n")
    before = contents(folder)
    assert main(["train", str(folder.config), "--resume"]) == 0
    assert "is complete at step 40" in " ".join(capsys.readouterr().out.split())
    assert contents(folder) | {"loss.png": ""} == before | {"loss.png": ""}


def test_the_folder_is_where_config_json_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = start(Path("outputs") / "a")
    assert resume(folder).config.run.outputs == "outputs"
    monkeypatch.chdir(tmp_path / "there")
    found = resume(RunFolder(Path("../here/outputs/a")))
    assert RunFolder.of(found.config.run.outputs, found.config.run.name).config.exists()
    shutil.move(tmp_path / "here" / "outputs" / "a", tmp_path / "there" / "b")
    moved = resume(RunFolder(tmp_path / "there" / "b"))
    assert RunFolder.of(moved.config.run.outputs, moved.config.run.name).root.resolve() == tmp_path / "there" / "b"
    with pytest.raises(UserError, match="no run to resume"):
        resume(RunFolder(tmp_path / "there" / "b"), "--run.outputs", "elsewhere")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus, a held-out set and a tokenizer."""
    monkeypatch.setenv("MULOCO_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "data"
    place.mkdir()
    for name in ("train", "held_out"):
        records = [json.dumps({"text": f"{name} {number} " * 20}) for number in range(60)]
        (place / f"{name}.jsonl").write_text("\n".join(records))
    train_tokenizer(BYTES, 258, place / "tokenizer")
    return place


def places(data: Path) -> dict[str, str]:
    files = {"corpus": data / "train.jsonl", "validation": data / "held_out.jsonl", "tokenizer": data / "tokenizer"}
    return {f"data.{name}": str(path) for name, path in files.items()}


@pytest.mark.parametrize("prepare", [True, False])
def test_data_that_was_moved_is_known_by_its_content(tmp_path: Path, data: Path, prepare: bool) -> None:
    there = {name.replace(".", "__"): place for name, place in places(data).items()}
    folder = start(tmp_path / "a", **there, data__prepare=prepare)
    assert check_content(resume(folder), content_of(prepare_data(resume(folder).config))) is None

    moved = data.rename(tmp_path / "moved")
    before = contents(folder)
    for name, place in places(data).items():
        with pytest.raises(UserError, match=name.split(".")[1]) as refusal:
            resume(folder, *words({other: value for other, value in places(moved).items() if other != name}))
        assert place in str(refusal.value)
    resumption = resume(folder, *words(places(moved)))
    said = check_content(resumption, content_of(prepare_data(resumption.config)))
    assert said is not None and "the same data" in said and str(moved / "train.jsonl") in said

    for file in ("train.jsonl", "held_out.jsonl"):
        original = (moved / file).read_text()
        (moved / file).write_text(json.dumps({"text": "something else"}) + "\n" + original)
        with pytest.raises(UserError, match="is not what the run was started with") as refusal:
            check_content(resumption, content_of(prepare_data(resumption.config)))
        assert str(moved / file) in str(refusal.value)
        (moved / file).write_text(original)
    assert contents(folder) == before


def test_a_tokenizer_that_is_gone_is_taken_from_the_run_folder(tmp_path: Path, data: Path) -> None:
    there = {name.replace(".", "__"): place for name, place in places(data).items()}
    folder = start(tmp_path / "a", **there)
    (data / "tokenizer").rename(folder.tokenizer)
    resumption = resume(folder)
    assert resumption.config.data.tokenizer == str(folder.tokenizer)
    content = content_of(prepare_data(resumption.config))
    assert "the same data" in (check_content(resumption, content) or "")

    train_tokenizer(BYTES, 290, tmp_path / "other")
    resumption = resume(folder, "--data.tokenizer", str(tmp_path / "other"))
    with pytest.raises(UserError, match="data.tokenizer .*other is not what"):
        check_content(resumption, content_of(prepare_data(resumption.config)))


def test_the_weights_that_a_run_began_with_are_not_needed_any_more(tmp_path: Path) -> None:
    folder = start(tmp_path / "a", step=None)
    stored = json.loads(folder.config.read_text())
    stored["resolved"]["checkpoint"]["initial"] = str(tmp_path / "gone")
    write_json(folder.config, stored)
    with pytest.raises(UserError, match="checkpoint.initial"):
        resume(folder)
    stored["resolved"]["checkpoint"]["initial"] = None
    write_json(folder.config, stored)
    assert "starts again" in resume(folder).remarks[0]
    stored["resolved"]["checkpoint"]["initial"] = str(tmp_path / "gone")
    write_json(folder.config, stored)
    add_checkpoint(folder, 20)
    assert resume(folder).config.checkpoint.initial == str(tmp_path / "gone")


def test_a_folder_that_was_renamed_to_what_no_run_can_be_called_is_named(tmp_path: Path) -> None:
    renamed = tmp_path / "ren amed"
    start(tmp_path / "a").root.rename(renamed)
    with pytest.raises(UserError, match="the folder's name 'ren amed' cannot be a run's name; rename it"):
        resume(RunFolder(renamed))
    renamed.rename(tmp_path / "renamed")
    assert resume(RunFolder(tmp_path / "renamed")).config.run.name == "renamed"
