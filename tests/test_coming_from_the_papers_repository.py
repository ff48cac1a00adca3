"""docs/coming-from-the-papers-repository.md: what it offers is there, and the command line answers to the old names."""

import re
import runpy

import pytest

from muloco.cli import main
from muloco.model.flavors import flavor
from muloco.settings.config import Config
from muloco.settings.fields import flatten
from muloco.settings.load import CHECKOUT, load_config

PAGE = (CHECKOUT / "docs/coming-from-the-papers-repository.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
OPTIONS = {f"--{name}" for name in flatten(Config())}
NESTED = "`outer_optimizer.kwargs` "


def codes(cell: str) -> list[str]:
    return [word for code in re.findall(r"`([^`]+)`", cell) for word in code.split()]


def old_names() -> list[tuple[str, set[str]]]:
    """Each option of the old code that has another name here, or none, and the options that its row offers."""
    found = []
    for old, ours in ROWS:
        names = [word for word in codes(old) if re.fullmatch(r"[a-z_]+\.(?!py$|sh$)\w+|data_train|data_val", word)]
        if old.startswith(NESTED):
            names = [f"outer_optimizer.kwargs.{word}" for word in re.findall(r"\w+", old.removeprefix(NESTED))]
        offered = {word for word in codes(ours) if word in OPTIONS}
        found += [(name, offered) for name in names if f"--{name}" not in OPTIONS and "/" not in old]
    return found


def test_what_the_page_offers_exists() -> None:
    offered = [word.strip(",") for _, ours in ROWS for word in codes(ours)]
    files = [word for word in offered if re.match(r"(config|jobs|docs|muloco)/|[\w/]+\.(md|py|sh)$", word)]
    options = [word for word in offered if re.match(r"--\w+\.\w+", word) and word != "--section.field"]
    assert len(files) > 25 and [file for file in files if not (CHECKOUT / file).exists()] == []
    assert len(options) > 40 and [option for option in options if option not in OPTIONS] == []


@pytest.mark.parametrize(("name", "offered"), old_names())
def test_an_old_option_is_answered_with_what_the_page_offers(
    name: str, offered: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, and with no option that is not in its row. Where nothing here does it, with the reason."""
    assert main(["train", "config/laptop/muloco.py", f"--{name}", "1"]) == 2
    said = capsys.readouterr().err
    answered = {word.rstrip(".,;") for word in re.findall(r"--[\w.]+", said)} - {f"--{name}"}
    assert said.startswith(f"muloco: unknown option --{name}; ") and said.count("\n") == 1
    assert answered <= offered, said
    assert answered or name in WITHOUT, said


WITHOUT = {
    "checkpoint.keep_selected_checkpoints",
    "metrics.wandb_project",
    "metrics.wandb_suffix",
    "outer_optimizer.kwargs.maximize",
    "outer_optimizer.kwargs.quantization_range",
}
"""Old options whose answer is no option."""


def test_there_are_old_options() -> None:
    names = [name for name, _ in old_names()]
    assert len(names) > 30 and set(names) >= WITHOUT


@pytest.mark.parametrize(
    "option", ["--extra-args", "--use-ddp", "--num-ft-replicas-per-node", "--nodes-per-replica", "--ntasks-per-node"]
)
def test_old_options_of_the_script_generator_are_answered(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    generate = runpy.run_path(str(CHECKOUT / "generate_job_file.py"))["main"]
    assert generate(["--config-file", "config/ddp/adamw.py", option, "1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"generate_job_file: {option} ") and said.count("\n") == 1


@pytest.mark.parametrize("old, ours", [row for row in ROWS if row[0].startswith("`config/d")])
def test_configs_of_the_page(old: str, ours: str) -> None:
    (path,) = codes(old)
    assert ours == old and flavor(load_config(path).model.flavor).parameters > 1e8
