"""The function titan(config) of a config file: its changes take effect, except for what is decided elsewhere."""

import re
from pathlib import Path

import pytest
import torch

from muloco.errors import UserError
from muloco.resolve import resolve
from muloco.runs.folder import RunFolder, read_json
from muloco.settings.annotations import Mark
from muloco.settings.fields import marks
from muloco.settings.load import load_config

from .one_worker import losses, train

CONFIG = """
import dataclasses
from muloco.recipes import base

def config():
    return base.muloco(base.workers(base.laptop(), 1), lr=0.02, outer_lr=0.7, outer_momentum=0.6)

def titan(config):
    {body}
"""


def _config(folder: Path, body: str, name: str = "own.py") -> Path:
    file = folder / name
    file.write_text(CONFIG.format(body=body))
    return file


PROFILED = (
    "profiler = config.profiler; profiler.enable_profiling, profiler.profile_freq, profiler.profiler_warmup = 1, 3, 1"
)


def test_what_titan_changes_takes_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profiler, which muloco does not name, and a clipping norm: the losses are those of a run whose config has this
    norm, and there is a trace."""
    file = _config(tmp_path, f"config.training.max_norm = 0.1; {PROFILED}")
    hooked = train(tmp_path / "a", monkeypatch, "muloco", training__titan=file)
    named = train(tmp_path / "b", monkeypatch, "muloco", training__max_norm=0.1)
    plain = train(tmp_path / "c", monkeypatch, "muloco")
    assert losses(hooked) == losses(named) != losses(plain)
    assert list((tmp_path / "a" / "run").rglob("*trace*.json*"))
    stored = read_json(RunFolder(tmp_path / "a" / "run").config)["resolved"]["training"]
    assert stored["titan"] == str(file) and len(stored["titan_sha256"]) == 64


def test_the_example_of_the_docs_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", Path("docs/torchtitan.md").read_text(), re.DOTALL)
    (tmp_path / "own.py").write_text(example)
    assert load_config(str(tmp_path / "own.py")).training.titan == str(tmp_path / "own.py")
    changes = {"training__titan": tmp_path / "own.py"}
    try:
        train(tmp_path / "a", monkeypatch, "muloco", **changes)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.autograd.set_detect_anomaly(False)


def test_workers_of_one_process_have_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = {"fault_tolerance__transport": "in_process", "fault_tolerance__group_size": 2}
    file = _config(tmp_path, "config.training.max_norm = 0.1")
    hooked = train(tmp_path / "a", monkeypatch, "muloco", training__titan=file, **two)
    named = train(tmp_path / "b", monkeypatch, "muloco", training__max_norm=0.1, **two)
    assert losses(hooked) == losses(named)
    file = _config(tmp_path, PROFILED)
    with pytest.raises(UserError, match="one in a process"):
        train(tmp_path / "c", monkeypatch, "muloco", training__titan=file, **two)


def test_a_config_file_with_titan_names_itself(tmp_path: Path) -> None:
    file = _config(tmp_path, "pass")
    assert resolve(load_config(str(file))).training.titan == str(file)
    assert resolve(load_config("config/laptop/muloco.py")).training.titan is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("config.training.steps = 9", "may not change training.steps, from 6 to 9; it is set by training.steps"),
        ("config.parallelism.pipeline_parallel_degree = 2", "parallelism.pipeline_parallel_degree, from 1 to 2"),
        ("config.dump_folder = '/elsewhere'", "may not change dump_folder"),
        ("return 3", "returned int; it has to return its argument, or None"),
        ("config.profile = 1", "line 9: .*profile"),
        ("raise RuntimeError('no')", "line 9: RuntimeError: no"),
        ("config.parallelism.pipeline_parallel_microbatch_size = 0", "must be greater than 0"),
    ],
)
def test_what_titan_may_not_do(body: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _config(tmp_path, body)
    with pytest.raises(UserError, match=words) as error:
        train(tmp_path / "a", monkeypatch, "muloco", training__titan=file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_has_no_titan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="^training.titan .*: No such file or directory"):
        resolve(load_config("config/laptop/muloco.py", ["--training.titan", str(tmp_path / "absent.py")]))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match=r"has no function titan\(\)"):
        train(tmp_path / "a", monkeypatch, "muloco", training__titan=tmp_path / "empty.py")


def test_a_resume_compares_the_file(tmp_path: Path) -> None:
    file = _config(tmp_path, "pass")
    resolved = resolve(load_config(str(file)))
    again = resolve(resolved)
    assert again.training.titan_sha256 == resolved.training.titan_sha256
    moved = tmp_path / "moved.py"
    file.rename(moved)
    with pytest.raises(UserError, match="training.titan"):
        resolve(resolved)
    resolved.training.titan = str(moved)
    assert resolve(resolved).training.titan == str(moved)
    _config(tmp_path, "print(1)", "moved.py")
    with pytest.raises(UserError, match="is not what it was when the run began"):
        resolve(resolved)


def test_workers_compare_the_file() -> None:
    """The digest is one of the values that workers compare."""
    assert marks()["training.titan_sha256"] is Mark.COMMON
