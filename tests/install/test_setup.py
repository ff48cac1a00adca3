"""setup.sh, sourced in the shells there are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from muloco.settings.load import CHECKOUT

from .machine import Machine

SHELLS = [pytest.param(s, marks=pytest.mark.skipif(not shutil.which(s), reason=f"no {s}")) for s in ("bash", "zsh")]


def sourced(machine: Machine, shell: str, commands: str, **env: str) -> subprocess.CompletedProcess:
    """What `commands` say, with $setup the path of setup.sh, in a shell that reads nobody's own settings."""
    quiet = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"]}[shell]
    path = {"PATH": os.environ["PATH"], "setup": str(machine.checkout / "setup.sh")}
    return subprocess.run(
        [shutil.which(shell), *quiet, "-c", commands],
        env=machine.env | path | env,
        cwd="/",
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("options", ["", "-eu"])
def test_setup_finds_its_checkout_from_anywhere(installed: Machine, shell: str, options: str) -> None:
    done = sourced(
        installed, shell, f'set {options} --; source "$setup"; source "$setup"; command -v muloco; env | grep ^MULOCO'
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{installed.checkout}/.venv/bin/muloco", f"MULOCO_PATH={installed.checkout}"]

    relative = (
        f'set {options} --; CDPATH=/; cd "{installed.checkout}/muloco"; source ../setup.sh; echo "$MULOCO_PATH"; pwd'
    )
    assert sourced(installed, shell, relative).stdout.split("\n")[:2] == [
        str(installed.checkout),
        f"{installed.checkout}/muloco",
    ]


@pytest.mark.parametrize("shell", SHELLS)
def test_setup_leaves_options_and_names_as_they_were(installed: Machine, shell: str) -> None:
    names, options = {
        "bash": ("compgen -v; compgen -A function", "set +o; shopt"),
        "zsh": ("print -l ${(k)parameters} ${(k)functions}", "setopt"),
    }[shell]
    report = f'show() {{ {names}; echo "--"; {options}; echo "--"; }}; show; source "$setup"; show'
    before, options_before, after, options_after, _ = sourced(installed, shell, report).stdout.split("--\n")
    assert options_before == options_after != ""
    new = {name for name in set(after.split()) - set(before.split()) if not name.startswith("_OLD_VIRTUAL_")}
    assert {"MULOCO_PATH", "VIRTUAL_ENV"} <= new
    of_the_shell = {"_", "PIPESTATUS", "BASH_REMATCH"}
    assert new - of_the_shell <= {"MULOCO_PATH", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "PS1", "deactivate"}


@pytest.mark.parametrize("shell", SHELLS)
def test_setup_without_an_environment_says_what_to_run_and_installs_nothing(machine: Machine, shell: str) -> None:
    done = sourced(
        machine, shell, 'source "$setup"; echo "status $?, ${MULOCO_PATH:-no path}"; command -v _muloco_setup'
    )
    assert done.stdout == "status 1, no path\n"
    assert f"{machine.checkout}/install_dependencies.sh --runtime" in done.stderr and done.stderr.count("\n") == 1
    assert not (machine.checkout / ".venv").exists()

    job = sourced(machine, shell, 'set -euo pipefail; source "$setup"; echo went on')
    assert job.returncode == 1 and job.stdout == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_setup_takes_the_checkout_in_muloco_path(installed: Machine, tmp_path: Path, shell: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(installed.checkout, other, symlinks=True)
    done = sourced(installed, shell, 'source "$setup"; echo "$MULOCO_PATH"', MULOCO_PATH=str(installed.checkout))
    assert (done.stdout, done.stderr) == (f"{installed.checkout}\n", "")
    done = sourced(
        installed, shell, 'set -eu; source "$setup"; echo "$MULOCO_PATH"', MULOCO_PATH="tmp/../" + str(other)
    )
    assert done.stdout == f"{other}\n" and str(other) in done.stderr  # it says that this is not its own checkout


@pytest.mark.parametrize("shell", SHELLS)
def test_setup_refuses_a_muloco_path_that_is_none(installed: Machine, tmp_path: Path, shell: str) -> None:
    papers = tmp_path / "papers"  # the paper's repository is called muloco too
    papers.mkdir()
    shutil.copy(CHECKOUT / "pyproject.toml", papers)
    (papers / "setup.sh").touch()
    (papers / "install_dependencies.sh").touch()
    for wrong in (papers, tmp_path / "nothing"):
        done = sourced(installed, shell, 'source "$setup"; echo "$? $MULOCO_PATH"', MULOCO_PATH=str(wrong))
        assert done.stdout == f"1 {wrong}\n"
        assert f"MULOCO_PATH={wrong} is no checkout" in done.stderr and str(installed.checkout) in done.stderr


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("variable", ["WANDB_API_KEY", "HF_TOKEN"])
def test_setup_passes_on_credentials_that_are_there_and_no_empty_ones(
    installed: Machine, shell: str, variable: str
) -> None:
    passed = f'set -eu; {{}} source "$setup"; env | grep ^{variable}= || echo none'
    assert sourced(installed, shell, passed.format("")).stdout == "none\n"
    assert sourced(installed, shell, passed.format(""), **{variable: ""}).stdout == "none\n"
    assert sourced(installed, shell, passed.format(""), **{variable: "a b*"}).stdout == f"{variable}=a b*\n"
    assert sourced(installed, shell, passed.format(f"{variable}=secret;")).stdout == f"{variable}=secret\n"


def test_a_stored_login_is_found_after_setup(installed: Machine, tmp_path: Path) -> None:
    token = tmp_path / ".cache/huggingface/token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_stored")
    ask = f'source "$setup"; {sys.executable} -c "import huggingface_hub; print(huggingface_hub.get_token())"'
    assert sourced(installed, "bash", ask, HF_TOKEN="").stdout == "hf_stored\n"
    assert sourced(installed, "bash", ask, HF_TOKEN="hf_mine").stdout == "hf_mine\n"


def test_setup_activates_an_environment_elsewhere(installed: Machine, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "scratch"], check=True)
    shutil.copy(installed.checkout / ".venv/bin/muloco", tmp_path / "scratch/bin/muloco")
    for venv in (str(tmp_path / "scratch"), "../scratch"):  # a relative one counts from the checkout
        done = sourced(installed, "bash", 'source "$setup"; command -v muloco', VENV=venv)
        assert Path(done.stdout.strip()).samefile(tmp_path / "scratch/bin/muloco")


@pytest.mark.parametrize("shell", SHELLS)
def test_setup_executed_says_that_it_has_to_be_sourced(installed: Machine, shell: str) -> None:
    done = sourced(installed, shell, f'{shutil.which(shell)} "$setup"')
    assert (done.returncode, done.stdout) == (1, "")
    assert f"source {installed.checkout}/setup.sh" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(not shutil.which("dash"), reason="no dash")
@pytest.mark.parametrize("words", [("-c", '. "$setup"; exit $?'), ("-eu", "-c", '. "$setup"; echo on'), ("SETUP",)])
def test_setup_in_another_shell_says_so(installed: Machine, words: tuple[str, ...]) -> None:
    setup = str(installed.checkout / "setup.sh")
    command = ["dash", *(setup if word == "SETUP" else word for word in words)]
    done = subprocess.run(command, env={**os.environ, "setup": setup}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "source it in bash or zsh" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(not shutil.which("dash"), reason="no dash")
def test_a_shell_that_meets_setup_goes_on(installed: Machine) -> None:
    """An interactive shell must not be closed by it."""
    command = ["dash", "-c", '. "$setup"; echo "went on: $?"']
    env = {**os.environ, "setup": str(installed.checkout / "setup.sh")}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout == "went on: 1\n"


@pytest.mark.skipif(not shutil.which("dash"), reason="no dash")
def test_the_installer_runs_under_sh(machine: Machine) -> None:
    command = [shutil.which("dash"), str(machine.checkout / "install_dependencies.sh"), "--help"]
    done = subprocess.run(command, env=machine.env, capture_output=True, text=True)
    assert done.returncode == 0 and "--from-source" in done.stdout and "BASH_VERSION" not in done.stdout, done.stderr
