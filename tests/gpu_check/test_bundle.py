"""The packages in a bundle, and the messages of its script on an unsuitable machine. Building a bundle needs a
network, and is not tested."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from importlib import metadata
from io import BytesIO
from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.gpu_check import bundle, from_bundle
from muloco.settings.load import CHECKOUT

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_what_the_machine_has_is_not_carried() -> None:
    names = bundle.needed(bundle.PROVIDED, bundle.environment("3.12"))
    assert {
        "torchtitan",
        "torchft",
        "cryptography",
        "cffi",
        "lm-eval",
        "datasets",
        "tyro",
        "opentelemetry-sdk",
        "rouge-score",
    } <= set(names)
    assert not {"torch", "numpy", "transformers", "sympy", "wandb", "muloco"} & set(names)
    assert not [name for name in names if name.startswith("nvidia")]


def test_what_the_machine_lacks_is_carried_with_what_it_requires() -> None:
    there = bundle.environment("3.12")
    fewer = [name for name in bundle.PROVIDED if name != "tensorboard"]
    added = set(bundle.needed(fewer, there)) - set(bundle.needed(bundle.PROVIDED, there))
    assert {"tensorboard", "werkzeug"} <= added and "numpy" not in added


def test_a_marker_is_read_for_the_machine() -> None:
    windows = {**bundle.environment("3.12"), "sys_platform": "win32", "platform_system": "Windows"}
    assert "colorama" in bundle.closure(["tqdm"], windows)
    assert "colorama" not in bundle.closure(["tqdm"], bundle.environment("3.12"))


def test_a_bundle_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    for name, size in (("small.whl", 1), ("large.whl", 40)):
        with (tmp_path / "wheels" / name).open("wb") as file:
            file.truncate(size * 2**20)
    with pytest.raises(
        UserError, match=r"41\.0 MiB, and at most 40 are allowed\. Largest files: large\.whl \(40\.0\), small\.whl"
    ):
        bundle.check_size(tmp_path)


def test_a_wheel_of_another_version_is_removed(tmp_path: Path) -> None:
    """The version of the package or of Python, as a bundle may be made again in its folder for another Python."""
    pins = {
        "rouge-score": "0.1.2",
        "tyro": "1.0.0",
        "cffi": "2.1",
        "cryptography": "50.0",
        "dill": "0.4",
        "xxhash": "4.1",
    }
    stay = ["cffi-2.1-cp311-cp311-manylinux2014_x86_64.whl", "cryptography-50.0-cp311-abi3-manylinux_2_28_x86_64.whl"]
    stay += ["dill-0.4-py2.py3-none-any.whl", "rouge_score-0.1.2-py3-none-any.whl"]
    go = ["gone-1.0-py3-none-any.whl", "tyro-0.9.0-py3-none-any.whl", "tyro-1.0.0-py312-none-any.whl"]
    go += ["xxhash-4.1-cp312-cp312-manylinux2014_x86_64.whl"]
    for name in (*stay, *go):
        (tmp_path / name).touch()
    assert bundle._keep_only(tmp_path, pins, "3.11") == {"cffi", "cryptography", "dill", "rouge-score"}
    assert sorted(path.name for path in tmp_path.iterdir()) == stay


@pytest.mark.parametrize(
    ("python", "provided", "message"),
    [
        ("2.7", [], "this bundle is for Python 2.7, and this is"),
        (
            HERE,
            ["pip", "no-such-package"],
            "this machine lacks no-such-package, which this bundle does not have; "
            f'build one with `make gpu-bundle GPU_ARGS="--python {HERE} --lacks no-such-package,rich"`',
        ),
        (HERE, ["no-such-torch"], "this machine lacks no-such-torch, too large for a bundle"),
    ],
)
def test_a_machine_that_it_does_not_fit(tmp_path: Path, python: str, provided: list[str], message: str) -> None:
    """The script runs alone, where muloco cannot be imported."""
    expect_refusal(put_script(tmp_path, python=python, provided=provided), message)


def test_a_torch_that_is_too_old(tmp_path: Path) -> None:
    here = metadata.version("torch")
    expect_refusal(put_script(tmp_path, torch="99.2"), f"this machine has PyTorch {here}; it has to be 99.2 or newer\n")


@pytest.mark.parametrize(
    ("version", "old"), [("2.4.0", True), ("2.10.1+cu128", True), ("2.11.0a0+git12", False), ("3.0", False)]
)
def test_versions_of_torch_are_compared_as_numbers(version: str, old: bool) -> None:
    assert (from_bundle._release(version) < from_bundle._release("2.11")) == old


def test_the_oldest_torch_is_the_bound_of_the_project() -> None:
    assert f'"torch>={bundle.oldest_torch()},' in (CHECKOUT / "pyproject.toml").read_text()


def expect_refusal(script: Path, message: str) -> None:
    done = subprocess.run([sys.executable, "-I", str(script)], capture_output=True, text=True, cwd=script.parent)
    assert done.returncode == 2 and done.stderr.startswith(f"check: {message}") and done.stderr.count("\n") == 1


def put_script(folder: Path, *, python: str = HERE, provided: Sequence[str] = (), torch: str = "2.11") -> Path:
    """The script and the facts of a bundle; returns the script."""
    script = folder / "check.py"
    script.write_text(Path(from_bundle.__file__).read_text())
    facts = {"python": python, "torch": torch, "provided": provided, "commit": "abc", "packages": {}}
    facts |= {"lacks": ["rich"], "never_packed": ["no-such-torch"]}
    (folder / "bundle.json").write_text(json.dumps(facts))
    return script


def put_wheel(folder: Path, name: str) -> None:
    """A package of one module."""
    folder.mkdir(exist_ok=True)
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"NAME = {name!r}")
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", tags)
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


def test_the_script_becomes_the_command_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """One process: what ends the script by a signal ends the checks. What else is in the folder stays."""
    script = put_script(tmp_path)
    code = b"import os, sys, tiny\nprint(tiny.NAME, os.getpid(), *sys.argv[1:])\nsys.exit(7)\n"
    with tarfile.open(tmp_path / "muloco.tar.gz", "w:gz") as packed:
        for name, text in (("muloco/__init__.py", b""), ("muloco/__main__.py", code)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            packed.addfile(entry, BytesIO(text))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "mine").write_text("stays")
    environment = {**os.environ, "MULOCO_GPU_FOLDER": str(scratch)}
    line = [sys.executable, "-I", str(script), "--list"]
    for name, installs in (
        ("tiny", True),
        ("tiny", False),
        ("small", True),
    ):  # the last is another bundle of the commit
        put_wheel(tmp_path / "wheels", name)
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
            said = process.communicate()[0]
        ending = f"tiny {process.pid} check-gpu --list --out {tmp_path / 'gpu-check'}\n"
        assert said.endswith(ending) and process.returncode == 7
        assert ("installing" in said) == installs
    assert (scratch / "mine").read_text() == "stays"


@pytest.mark.parametrize("planted", ["writable by all", "a link"])
def test_a_folder_that_others_can_write_to_is_not_run(tmp_path: Path, planted: str, monkeypatch) -> None:
    script = put_script(tmp_path)
    monkeypatch.setenv("MULOCO_GPU_FOLDER", str(tmp_path / "scratch"))
    folder = tmp_path / "scratch" / f"muloco-gpu-abc-{os.getuid()}"
    (tmp_path / "elsewhere" / "muloco" / "muloco").mkdir(parents=True)
    (tmp_path / "elsewhere" / "muloco" / "muloco" / "__main__.py").write_text("print('owned')")
    (tmp_path / "elsewhere" / "installed").write_text("abc")
    (tmp_path / "scratch").mkdir()
    if planted == "a link":
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "elsewhere").rename(folder)
        folder.chmod(0o777)
    expect_refusal(script, f"{folder} is not a folder that only you can write to; name another")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--python", "3.9"], "--python must be one of 3.11, 3.12, 3.13; got 3.9"),
        (["--lacks", "torch"], "--lacks: torch is too large for a bundle"),
        (["--lacks", "rich,foo"], "--lacks must be names of accelerate, "),
        (["--folder", __file__], f"--folder: {__file__} is not a folder"),
    ],
)
def test_a_mistake_is_told_in_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert bundle.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bundle: {message}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["--out", "/home/gpu-check"]),
        (["--parts", "small", "--out", "found"], ["--parts", "small", "--out", "/home/found"]),
        (["--out=/elsewhere", "--list"], ["--list", "--out", "/elsewhere"]),
    ],
)
def test_the_record_is_written_where_the_user_is(words: list[str], expected: list[str]) -> None:
    assert from_bundle.with_absolute_out(words, Path("/home")) == expected
