"""The wheel without a checkout: it trains by a shipped config, and its optimizers need torch alone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from muloco.settings.load import CHECKOUT

from ..patience import PATIENCE


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment into which pip has installed the wheel. Its other packages are those of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    for part in ("muloco", "config", "jobs"):  # setuptools builds within the sources
        ignored = shutil.ignore_patterns("__pycache__", "generated_job_files")
        shutil.copytree(CHECKOUT / part, folder / "sources" / part, ignore=ignored)
    for part in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / part, folder / "sources")
    offline = ["--quiet", "--no-deps", "--no-index"]
    build = ["wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "sources")]
    pip(*build)
    (wheel,) = folder.glob("muloco-*.whl")
    venv.create(folder / "environment", with_pip=False, symlinks=True)
    python = folder / "environment" / "bin" / "python"
    paths = sysconfig.get_paths(vars={"base": str(folder / "environment"), "platbase": str(folder / "environment")})
    (Path(paths["purelib"]) / "tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip("--python", str(python), "install", *offline, "--no-compile", str(wheel))
    return folder / "environment"


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=PATIENCE)


def run(environment: Path, cwd: Path, program: str, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a program of the environment in a folder, with nothing of the tests' own paths."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(environment / "bin" / program), *words],
        cwd=cwd,
        env={**own, "OMP_NUM_THREADS": "1", **({"PYTHONPATH": path} if path else {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_a_shipped_config_trains_from_any_folder_whatever_lies_in_it(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    words = ["--model.flavor", "tiny", "--training.seq_len", "64", "--training.global_batch_size", "4"]
    words += ["--training.local_batch_size", "2", "--training.steps", "2", "--lr_scheduler.warmup_steps", "1"]
    words += ["--validation.sequences", "4", "--fault_tolerance.group_size", "1", "--run.name", "a"]
    done = run(environment, tmp_path, "muloco", "train", "laptop/muloco", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "outputs" / "a" / "summary.json").exists()


def test_a_shipped_sweep_lists_its_jobs(environment: Path, tmp_path: Path) -> None:
    done = run(environment, tmp_path, "muloco", "sweep", "jobs/muloco_paper/15B.py", "--folder", str(tmp_path / "jobs"))
    assert len(list((tmp_path / "jobs").glob("*.sh"))) == 6, done.stdout + done.stderr


def test_the_optimizers_of_the_wheel_need_torch_alone(environment: Path, tmp_path: Path) -> None:
    code = (
        "import sys, muloco.pytorch as p; from pathlib import Path\n"
        f"assert Path(p.__file__).is_relative_to({str(environment)!r})\n"
        "assert (Path(p.__file__).parent / 'py.typed').exists()\n"
        "theirs = {m.partition('.')[0] for m in sys.modules}\n"
        "found = theirs & {'torchtitan', 'torchft', 'tyro', 'rich', 'datasets', 'scipy', 'matplotlib'}\n"
        "assert not found, found"
    )
    done = run(environment, tmp_path, "python", "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("package", "words"), [("tokenizers", ["--version"]), ("tyro", ["train", "laptop/muloco", "--help"])]
)
def test_a_missing_package_is_named_with_what_brings_it(
    package: str, words: list[str], environment: Path, tmp_path: Path
) -> None:
    """Whether it is needed by every command, or by one of them."""
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('no {package}', name='{package}')\n")
    done = run(environment, tmp_path, "muloco", *words, path=str(tmp_path))
    assert done.returncode == 2 and "pip install 'muloco[train]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
