"""The command line: what is shown, what is refused, and how soon."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from muloco.cli import main
from muloco.model.flavors import aliases
from muloco.resolve import resolve
from muloco.settings.config import Config
from muloco.settings.fields import field_types, get_field
from muloco.settings.load import load_config
from muloco.settings.stored import to_dict

TYPO = """\
from muloco.settings.config import Config


def config() -> Config:
    config = Config()
    config.optimizer.learnrate = 0.1
    return config
"""
HEAVY = ("torch", "torchtitan", "torchft", "lm_eval", "transformers", "datasets", "matplotlib", "tyro")


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says that is refused with status 2, in one line."""
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("muloco: ") and error.count("\n") == 1, error
    return error


def test_a_dry_run_shows_every_field_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MULOCO_CACHE", str(tmp_path / "cache"))
    words = ["config/laptop/muloco.py", "--run.name", "x", "--training.tokens", "1e5"]
    words += ["--training.steps", "None", "--compression.kind", "topk"]
    assert main(["train", *words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert max(map(len, shown.splitlines())) <= 80
    sections = dict(re.findall(r"^\[(.+?)\]\n((?:  .*\n)*)", shown, re.MULTILINE))
    config = resolve(load_config(words[0], words[1:]))
    for field in field_types():
        section, name = field.rsplit(".", 1)
        value = get_field(config, field)
        words = value if isinstance(value, tuple) else [str(value).lower() if isinstance(value, bool) else value]
        line = re.search(rf"^  {name} +(.*)$", sections[section], re.MULTILINE)
        assert line is not None and line[1] == (" ".join(map(str, words)) or "(none)"), field
    # 100,000 tokens are 24 steps of 16 x 256 tokens; weight decay: .01 x (16 / 2) / 512
    text = " ".join(shown.split())
    for derivation in (
        "steps 24 derived: 100,000 tokens in training.tokens / (16 sequences x 256 tokens)",
        "tokens 98304 derived: 24 steps x 16 sequences x 256 tokens; 100,000 were given",
        "weight_decay 0.00015625 derived: 0.01 (",
        "semi_sync_method diloco derived: optimizer.name Muon",
        "fraction 0.1 derived: compression.kind topk",
    ):
        assert derivation in text


def test_every_value_that_is_derived_says_what_from(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever differs from what was chosen, in a config in which nothing was."""
    assert main(["train", "config/laptop/gpa.py", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    chosen = load_config("config/laptop/gpa.py")
    config = resolve(chosen)
    changed = {name for name in field_types() if get_field(chosen, name) != get_field(config, name)}
    assert "optimizer.mu_x" in changed
    assert len(re.findall("derived: ", shown)) == len(changed)


def test_a_dry_run_says_what_is_perhaps_not_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "x"}\n')
    words = ["--data.corpus", f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl", "--data.weights", "1", "3"]
    assert main(["train", "config/laptop/muon.py", "--training.steps", "6", *words, "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "warmup_steps 20 is more than the 6 steps of the run" in shown
    assert "data.weights sum to 4, not to 1; the shares of the sources are 0.25, 0.75" in shown
    assert main(["train", "config/laptop/muon.py", "--dry-run"]) == 0
    assert "note:" not in capsys.readouterr().out


def test_a_dry_run_of_a_resume_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "be combined with --resume" in refusal(capsys, "train", "config/laptop/muon.py", "--dry-run", "--resume")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["train", "config/diloco/2x_4gpu_muloco_streaming.py", "--dry-run", "--compression.kind", "topk"], 0),
        (["train", "config/laptop/muloco.py", "--dry-run", "--checkpoint.initial", "nowhere"], 2),
        (["train", "config/laptop/muloco.py", "--dry-run", "--evaluation.tasks", "no_such_task_anywhere"], 2),
        (["train", "config/laptop/muloco.py", "--lr", "3"], 2),
        (["worker", "config/laptop/muloco.py", "--run.name", "x"], 2),
        (["generate", "nowhere", "--prompt", "x"], 2),
        (["eval", "nowhere", "--tasks", "piqa"], 2),
        (["export", "nowhere", "out"], 2),
        (["analyze", "pseudogradients", "nowhere"], 2),
        (["plan", "x.toml"], 2),
    ],
    ids=lambda words: " ".join(words[:4]) if isinstance(words, list) else "",
)
def test_mistakes_are_told_without_waiting_for_heavy_imports(words: list[str], status: int, tmp_path: Path) -> None:
    code = (
        f"import sys, muloco.cli; status = muloco.cli.main({words!r}); found = set({HEAVY!r}) & set(sys.modules); "
        f"assert status == {status}, status; assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == (status == 2) and list(tmp_path.iterdir()) == []


def test_help_lists_the_flavors(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train", "--help"], ["train", "config/laptop/muloco.py", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        assert {alias for alias in aliases() if "/" not in alias} <= set(re.findall(r"[\w.]*\w", shown))
        assert "muloco models" in " ".join(shown.split())


def test_an_error_in_a_config_is_one_line_and_with_v_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TYPO)
    for command in ("train", "prepare", "worker", "plan"):
        error = refusal(capsys, command, str(file))
        assert f"{file}, line 6: there is no optimizer.learnrate in a config; use optimizer.lr" in error
        assert main([command, str(file), "-v"]) == 2
        error = capsys.readouterr().err
        assert "Traceback" in error and "config.optimizer.learnrate = 0.1" in error
        assert error.splitlines()[-1].startswith("muloco: ")


def test_an_error_in_a_sweep_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.py"
    for text, message in (
        ("def sweep():\n    return 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("def sweep(:\n", "line 1: invalid syntax"),
    ):
        file.write_text(text)
        for command in ("sweep", "plan"):
            assert f"{file}, {message}" in refusal(capsys, command, str(file))


def test_what_the_disk_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "outputs/x")

    monkeypatch.setattr("muloco.commands.train.resolution", fail)
    monkeypatch.setattr("muloco.commands.worker.resolve", fail)
    assert main(["train", "config/laptop/muon.py"]) == 1
    assert capsys.readouterr().err == "muloco: 'outputs/x': No space left on device (-v shows where)\n"
    assert main(["worker", "config/laptop/muon.py"]) == 1


LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", LONG], "there is no config 'xxx"),
        (["train", "LAPTOP", "--run.outputs", LONG], "run.outputs 'xxx"),
        (["train", "LAPTOP", "--dry-run", "--run.outputs", "/dev/null"], "(run.outputs, run.name): /dev/null is not a"),
        (["train", "LAPTOP", "--dry-run", "--run.outputs", "FILE/x"], "file is not a folder"),
        (["train", "LAPTOP", "--dry-run", "--data.corpus", "hf:a"], "hf:a is not the name of a data set; write hf:OWN"),
        (["train", "LAPTOP", "--dry-run", "--data.corpus", LONG], "muloco: data.corpus"),
        (["train", "LAPTOP", "--dry-run", "--data.validation", LONG], "muloco: data.validation"),
        (["train", "LAPTOP", "--dry-run", "--data.tokenizer", LONG], "muloco: data.tokenizer"),
        (["train", "LAPTOP", "--dry-run", "--checkpoint.initial", LONG], "checkpoint.initial '/"),
        (["train", "LAPTOP", "--dry-run", "--run.name", LONG], "--run.name must be the name of a folder"),
        (["sweep", LONG], "FILE 'xxx"),
        (["plan", LONG], "there is no config 'xxx"),
        (["report", LONG], "RUN 'xxx"),
        (["generate", LONG, "--prompt", "x"], "cannot be read: File name too long"),
        (["sweep", "jobs/muloco_paper/15B.py", "--folder", "FILE/x"], "--folder '"),
        (["generate", "nowhere", "--prompt", "x", "--temperature", "inf"], "--temperature must be a finite number"),
        (["generate", "nowhere", "--prompt", "x", "--seed", "-1"], "--seed must be from 0"),
        (["export", "nowhere", "x", "--shard-gib", "nan"], "--shard-gib must be a finite number"),
        (["trian", "LAPTOP"], "unknown command trian; did you mean train?"),
        (["xyz"], "unknown command xyz; the commands are train, prepare, "),
        (["paper"], "unknown command paper; did you mean reproduce?"),
        ([], "muloco needs a COMMAND; try `muloco --help`"),
        (["train", ""], "CONFIG must not be empty"),
        (["report", ""], "RUN must not be empty"),
        (["sweep", ""], "FILE must not be empty"),
        (["eval", "", "--tasks", "x"], "CHECKPOINT must not be empty"),
        (["generate", "nowhere", "--prompt", "x", "--tokens", "1e-9"], "--tokens must be a whole number; got 1e-09"),
        (["plan", "LAPTOP", "--gpus", "many"], "--gpus must be a whole number; got the text 'many'"),
        (["train", "LAPTOP", "--outer_lr", "1"], "unknown option --outer_lr; use --outer_optimizer.lr"),
        (["train", "LAPTOP", "--model.flavor", "huge"], "there is no flavor 'huge'; the flavors are tiny, small, "),
        (["train", "LAPTOP", "--dry-runn"], "unknown option --dry-runn; did you mean --dry-run?"),
    ],
    ids=lambda words: " ".join(words[:1] + words[-2:-1]) if isinstance(words, list) else "",
)
def test_a_path_or_a_number_that_cannot_be_is_one_line_with_its_option(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    names = {"LAPTOP": "config/laptop/muloco.py", "FILE/x": "file/x"}
    assert message in refusal(capsys, *(names.get(word, word) for word in words))


def test_whole_numbers_of_commands_are_read_as_those_of_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that gets past its options says that its checkpoint is missing."""
    assert "nowhere is not" in refusal(capsys, "generate", "nowhere", "--prompt", "x", "--tokens", "1e9")
    assert "nowhere is not" in refusal(capsys, "generate", "nowhere", "--prompt", "x", "--top-k", "1_000")


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a b", "a\nb", "a\0b", "a/b", LONG, "outputs/x", "ü"])
def test_names_that_are_no_folder_of_their_own_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--run.name must be" in refusal(capsys, "train", "config/laptop/muloco.py", f"--run.name={name}")


def test_a_run_folder_stands_for_its_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = resolve(load_config("config/laptop/muloco.py", ["--run.name", "x", "--optimizer.lr", "0.5"]))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text(json.dumps({"chosen": to_dict(Config()), "resolved": to_dict(config)}))
    assert resolve(load_config(str(tmp_path / "x"))) == config
    assert main(["train", str(tmp_path / "x"), "--dry-run"]) == 0
    assert re.search(r"lr +0.5\n", capsys.readouterr().out)
    (tmp_path / "other").mkdir()
    assert "is a folder without a config.json" in refusal(capsys, "train", str(tmp_path / "other"))
    (tmp_path / "x.toml").touch()
    assert "is not a config; allowed are a Python file" in refusal(capsys, "plan", str(tmp_path / "x.toml"))
