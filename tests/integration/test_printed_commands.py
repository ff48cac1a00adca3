"""The commands that README and documents print do what they say, as a user types them."""

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from muloco.cli import main
from muloco.settings.load import CHECKOUT

from ..evals.local_tasks import write_tasks
from ..patience import PATIENCE
from ..printed_commands import printed, replaced, shortened

README = (CHECKOUT / "README.md").read_text()
SWEEP = """
from muloco.sweeps.sweep import Grid, Sweep, product

def sweep():
    points = product({"optimizer.lr": [0.01, 0.02]})
    return Sweep(Grid(name="mine", config="config/laptop/muloco.py", points=points))
"""


def kind(command: str) -> str:
    """How a command is tried; see `tests/printed_commands.py` for the rule."""
    words = replaced(command).split()
    program = [word for word in words if "=" not in word][0] if "=" in words[0] else words[0]
    if program in ("pip", "uv") or program.endswith("install_dependencies.sh"):
        return "installs"  # tests/install holds what these do
    if program in ("sbatch", "torchrun") or words[-1] == "status" or "cluster.py" in command:
        return "cluster"  # tests/integration/slurm and by_hand.py do these for real
    if program == "make":
        return "target"
    if program == "python" and (words[1].startswith("benchmarks/") or words[2].startswith("tests.")):
        return "benchmark"
    if re.fullmatch(r"muloco( analyze)? [a-z-]+", command):
        return "mention"
    if program == "muloco" and {"--help", "--dry-run"} & set(words):
        return "run"
    if {"worker", "lighthouse"} & set(words[:3]):
        return "worker"
    if program == "muloco" and words[1] == "train":
        # A fault behind the only sync of a shortened run would rightly end it with status 1; the storm is its own test.
        unsure = "--chaos." in command
        here = f"`{command}`" in README and "config/diloco" not in command and not unsure
        return "train" if here or "--resume" in words else "plan"
    return "run"


COMMANDS = [(command, kind(command)) for command in printed()]


def of(*kinds: str) -> list[str]:
    return [command for command, kind in COMMANDS if kind in kinds]


def test_every_kind_of_command_is_found() -> None:
    """Guards the extraction itself: a document that prints commands in another way would not be read."""
    assert {kind for _, kind in COMMANDS} == {
        *("installs", "cluster", "target", "benchmark", "mention", "run", "worker", "plan", "train")
    }
    assert len(of("train")) > 12 and len(of("run")) > 15


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


HERE = [command for command in of("run") if command.startswith(("muloco ", "python "))]
"""Commands that need no shell."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the documents speak of: a checkout, runs, text, an exported model, tasks, a sweep."""
    folder = tmp_path_factory.mktemp("printed") / "checkout"
    folder.mkdir()
    for part in ("config", "jobs"):
        shutil.copytree(CHECKOUT / part, folder / part, ignore=shutil.ignore_patterns("generated_job_files"))
    for part in ("setup.sh", "generate_job_file.py", "Makefile", "pyproject.toml", "install_dependencies.sh"):
        shutil.copy(CHECKOUT / part, folder)
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    (folder / "muloco").symlink_to(CHECKOUT / "muloco")
    texts = [" ".join(f"word{(i * j) % 97}" for j in range(200)) for i in range(60)]
    shutil.copy(CHECKOUT / "jobs" / "muloco_paper" / "cluster.toml", folder)
    shutil.copy(CHECKOUT / "config" / "laptop" / "muloco.py", folder / "yours.py")
    (folder / "books.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "books").mkdir()
    (folder / "books" / "one.txt").write_text("\n\n".join(texts))
    import zstandard

    (folder / "code.jsonl.zst").write_bytes(zstandard.compress((folder / "books.jsonl").read_bytes()))
    write_tasks(folder / "tasks", documents=4)
    (folder / "my_sweep.py").write_text(SWEEP)
    first = shell(
        shortened(
            "muloco train config/laptop/muloco.py --run.name NAME --training.steps 4 --checkpoint.interval 2 "
            "--fault_tolerance.transport in_process"
        ),
        folder,
    )
    assert first.returncode == 0, first.stdout + first.stderr
    for name in ("a", "b"):
        shutil.copytree(folder / "outputs" / "NAME", folder / "outputs" / name)
    assert shell("muloco export outputs/NAME exported", folder).returncode == 0
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it, for one command to do with as it likes."""
    return Path(shutil.copytree(prepared, tmp_path / "checkout", symlinks=True))


def ends_well(command: str, folder: Path) -> str:
    done = shell(command, folder)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr
    return done.stdout


def answer(command: str, folder: Path) -> tuple[int, str]:
    """Exit status of a command, and what it says, in this process: to start another one takes longer than most."""
    words, said = shlex.split(command), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        patch.chdir(folder)
        while "=" in words[0]:
            patch.setenv(*words.pop(0).split("=", 1))
        program, *arguments = words
        try:
            if program == "muloco":
                return main(arguments), said.getvalue()
            assert program == "python", command
            if arguments[0] == "-m":
                patch.setattr(sys, "argv", arguments[1:])
                runpy.run_module(arguments[1], run_name="__main__")
                return 0, said.getvalue()
            patch.setattr(sys, "argv", arguments)
            patch.syspath_prepend(str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as end:
            return end.code or 0, said.getvalue()
    return 0, said.getvalue()


def answers_well(command: str, folder: Path) -> None:
    status, said = answer(command, folder)
    assert status == 0, f"{command}\n{said[-4000:]}"


def with_local_tasks(command: str) -> str:
    return replaced(command) + " --evaluation.include_path tasks" * ("--evaluation.tasks" in command)


@pytest.mark.full
@pytest.mark.parametrize("command", of("train"))
def test_a_command_that_trains(command: str, folder: Path) -> None:
    if "--resume" in command:
        (folder / "outputs" / "NAME" / "summary.json").unlink()
        ends_well(replaced(command), folder)
        return
    assert "loss curve: " in ends_well(shortened(with_local_tasks(command)), folder)


@pytest.mark.parametrize("command", [command for command in of("plan", "train") if "--resume" not in command])
def test_a_command_would_start(command: str, prepared: Path) -> None:
    flavor = " --model.flavor tiny" * ("--checkpoint.initial" in command)  # that of the exported model
    answers_well(f"{with_local_tasks(command)}{flavor} --dry-run", prepared)


def in_a_test(command: str) -> str:
    """A command with what makes it quick."""
    command = replaced(command)
    if "muloco eval" in command:
        command += " --include-path tasks"
    if "muloco analyze" in command:
        command += " --steps 2" + " --workers 1 2" * ("--workers" not in command)
    if "muloco reproduce" in command:
        command += " --plan"
    if "muloco check-gpu" in command:
        command += " --list"
    return command.replace("--submit", "--dry-run")


@pytest.mark.parametrize("command", [command for command in HERE if "--here" not in command])
def test_a_command_that_is_quick_as_it_is(command: str, folder: Path) -> None:
    if command.startswith("muloco report jobs/"):
        assert "not started: " in answer(replaced(command), folder)[1], "none of the paper's runs has been made here"
        return
    answers_well(in_a_test(command), folder)


@pytest.mark.full
@pytest.mark.parametrize("command", [command for command in HERE if "--here" in command])
def test_a_sweep_that_trains(command: str, folder: Path) -> None:
    ends_well(shortened(replaced(command)) + " --run.outputs outputs", folder)


@pytest.mark.parametrize("command", sorted(set(of("run")) - set(HERE)))
def test_a_command_of_the_shell(command: str, folder: Path) -> None:
    if command.startswith("bash -n"):
        shutil.copy(folder / "jobs" / "slurm_example.sh", folder / "my-run.sh")
    ends_well(replaced(command), folder)


@pytest.mark.parametrize("command", of("worker", "mention"))
def test_a_command_that_is_named_is_understood(command: str, prepared: Path) -> None:
    answers_well(f"{replaced(command)} --help", prepared)


@pytest.mark.parametrize("command", of("target"))
def test_a_target_of_make_exists(command: str, prepared: Path) -> None:
    ends_well(command.replace("make ", "make --dry-run "), prepared)


@pytest.mark.parametrize("command", of("benchmark"))
def test_a_benchmark_knows_what_it_is_asked_for(command: str, prepared: Path) -> None:
    answers_well(f"{command.replace('benchmarks/', str(CHECKOUT / 'benchmarks') + '/')} --help", prepared)
