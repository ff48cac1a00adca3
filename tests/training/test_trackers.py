"""What TensorBoard and Weights & Biases are given, read back."""

import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from muloco.errors import UserError
from muloco.resolve import resolve
from muloco.runs.folder import RunFolder
from muloco.runs.states import State, tell_state
from muloco.settings.config import Config
from muloco.settings.load import load_config
from muloco.settings.stored import to_dict
from muloco.training.trackers import TensorBoard, WeightsAndBiases


@pytest.fixture
def config() -> Config:
    return resolve(load_config("config/laptop/muloco.py", ["--run.name", "run"]))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_each_value_once_and_a_resumed_run_as_one(tmp_path: Path, config: Config) -> None:
    first = TensorBoard(tmp_path, config)
    for step in range(5):
        first.log({"loss": 8.0 - step}, step)
    first.log({"validation_loss": 7.5}, 4)
    first.close()
    assert scalars(tmp_path) == {"loss": [(s, 8.0 - s) for s in range(5)], "validation_loss": [(4, 7.5)]}

    resumed = TensorBoard(tmp_path, config)
    for step in (3, 4, 5):
        resumed.log({"loss": 1.0}, step)
    resumed.close()
    assert scalars(tmp_path)["loss"] == [(0, 8.0), (1, 7.0), (2, 6.0), (3, 1.0), (4, 1.0), (5, 1.0)]


def test_tensorboards_hparams_are_the_config(tmp_path: Path, config: Config) -> None:
    tracker = TensorBoard(tmp_path, config)
    tracker.log({"loss": 8.0}, 0)
    tracker.close()
    plugin = EventAccumulator(str(tmp_path)).Reload().summary_metadata
    told = {
        tag: HParamsPluginData.FromString(metadata.plugin_data.content)
        for tag, metadata in plugin.items()
        if metadata.plugin_data.plugin_name == "hparams"
    }
    hparams = told["_hparams_/session_start_info"].session_start_info.hparams
    assert hparams["optimizer.lr"].number_value == 0.02
    assert hparams["optimizer.name"].string_value == "Muon"
    assert hparams["training.steps"].number_value == 180
    shown = {info.name.tag for info in told["_hparams_/experiment"].experiment.metric_infos}
    assert shown == {"loss", "validation_loss", "validation_bits_per_byte"}


class FakeWandb(SimpleNamespace):
    """W&B's public API, as far as it is used."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__(runs=[], refuses=None)

    def init(self, **words: Any) -> "FakeRun":
        if self.refuses:
            raise self.Error(self.refuses)
        assert words["reinit"] == "create_new" and words["resume"] == "allow"
        json.dumps(words["config"])  # plain values
        self.runs.append(FakeRun(words))
        return self.runs[-1]


class FakeRun:
    def __init__(self, words: dict[str, Any]):
        self.words, self.logged, self.finished = words, [], False

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged += [(step, name, value) for name, value in values.items()]

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    for name in ("PROJECT", "RUN_GROUP", "NAME", "RUN_ID", "DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def begun(root: Path, workers: int = 2) -> RunFolder:
    folder = RunFolder(root)
    tell_state(folder, range(workers), attempt=1, state=State.PREPARING)
    return folder


def test_wandb_has_a_run_for_each_worker_over_restarts(tmp_path: Path, config: Config, wandb: FakeWandb) -> None:
    folder = begun(tmp_path / "run")
    for attempt in (1, 2):
        for worker in (0, 1):
            tracker = WeightsAndBiases(folder, worker, config)
            tracker.log({"loss": 2.0, "sync/cosine": 0.5}, attempt)
            tracker.close()
        tell_state(folder, (0, 1), attempt=attempt + 1, state=State.PREPARING)
        folder = RunFolder(folder.root.rename(tmp_path / f"moved-{attempt}"))
    words = [run.words for run in wandb.runs]
    assert all(count == 2 for count in Counter(one["id"] for one in words).values())
    assert [one["name"] for one in words] == ["run-worker-000", "run-worker-001"] * 2
    assert {(one["project"], one["group"]) for one in words} == {("muloco", "run")}
    assert words[0]["dir"] == str(tmp_path / "run") and words[0]["config"] == to_dict(config)
    assert [run.logged for run in wandb.runs[:2]] == [[(1, "loss", 2.0), (1, "sync/cosine", 0.5)]] * 2
    assert all(run.finished for run in wandb.runs)


def test_another_run_of_the_same_name_is_another_run_of_wandb(tmp_path: Path, config: Config, wandb: FakeWandb) -> None:
    for attempt, name in enumerate(("one", "two"), start=1):
        folder = RunFolder(tmp_path / name)
        tell_state(folder, [0], attempt=attempt, state=State.PREPARING)  # another first line, whatever the clock says
        WeightsAndBiases(folder, 0, config)
    one, two = (run.words["id"] for run in wandb.runs)
    assert one != two


def test_wandbs_environment_holds(
    tmp_path: Path, config: Config, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PROJECT", "p"), ("RUN_GROUP", "g"), ("NAME", "n"), ("RUN_ID", "i"), ("DIR", "/d")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    WeightsAndBiases(begun(tmp_path), 1, config)
    words = wandb.runs[0].words
    assert [words[key] for key in ("project", "group", "name", "id", "dir")] == [
        *("p", "g", "n-worker-001", "i-worker-001", "/d")
    ]


def test_where_wandb_does_not_start_it_is_said_why(tmp_path: Path, config: Config, wandb: FakeWandb) -> None:
    wandb.refuses = "api_key not configured"
    with pytest.raises(UserError, match="metrics.wandb: Weights & Biases does not start: api_key not configured"):
        WeightsAndBiases(begun(tmp_path), 0, config)
