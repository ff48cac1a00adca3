"""What users of the paper's repository type and have is answered and read here."""

import re
import runpy

import pytest

from muloco.cli import main
from muloco.model.flavors import flavor
from muloco.settings.config import Config
from muloco.settings.fields import flatten
from muloco.settings.load import CHECKOUT, load_config
from muloco.settings.other_names import PAPER

OPTIONS = {f"--{name}" for name in flatten(Config())}


@pytest.mark.parametrize("name", [name for name in PAPER if f"--{name}" not in OPTIONS])
def test_an_old_option_is_answered_with_what_to_use(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with options that exist, or with the reason where nothing here does it."""
    assert main(["train", "config/laptop/muloco.py", f"--{name}", "1"]) == 2
    said = capsys.readouterr().err
    offered = {word.rstrip(".,;") for word in re.findall(r"--[\w.]+", said)} - {f"--{name}"}
    assert PAPER[name].here and said == f"muloco: unknown option --{name}; {PAPER[name].here}\n"
    assert offered <= OPTIONS


@pytest.mark.parametrize(
    "option", ["--extra-args", "--use-ddp", "--num-ft-replicas-per-node", "--nodes-per-replica", "--ntasks-per-node"]
)
def test_old_options_of_the_script_generator_are_answered(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    generate = runpy.run_path(str(CHECKOUT / "generate_job_file.py"))["main"]
    assert generate(["--config-file", "config/ddp/adamw.py", option, "1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"generate_job_file: {option} ") and said.count("\n") == 1


METHODS = (
    "diloco",
    "muloco",
    "diloco_streaming",
    "muloco_streaming",
    "diloco_quantized_outer",
    "muloco_quantized_outer",
)


@pytest.mark.parametrize(
    "path",
    [f"config/ddp/{name}.py" for name in ("1gpu_test", "8gpu_test_3B", "8gpu_test_15B", "adamw", "muon")]
    + [f"config/diloco/2x_4gpu_{name}.py" for name in (*METHODS, "gpa")],
)
def test_the_papers_configs_keep_their_names(path: str) -> None:
    assert flavor(load_config(path).model.flavor).parameters > 1e8
