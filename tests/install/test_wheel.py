"""The wheel, used without a checkout: it trains by a shipped config, and its optimizers need torch alone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from muloco.settings.load import CHECKOUT

from ..patience import PATIENCE


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH into which the wheel is unpacked, as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    for part in ("muloco", "config", "jobs"):  # setuptools builds within the sources
        shutil.copytree(CHECKOUT / part, folder / "sources" / part)
    for part in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / part, folder / "sources")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(folder / "sources")], check=True, timeout=PATIENCE)
    (wheel,) = folder.glob("muloco-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )


def test_a_shipped_config_trains_from_any_folder_whatever_lies_in_it(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    words = ["--model.flavor", "tiny", "--training.seq_len", "64", "--training.global_batch_size", "4"]
    words += ["--training.local_batch_size", "2", "--training.steps", "2", "--lr_scheduler.warmup_steps", "1"]
    words += ["--validation.sequences", "4", "--fault_tolerance.group_size", "1", "--run.name", "a"]
    done = run(installed, tmp_path, "-m", "muloco", "train", "laptop/muloco", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "outputs" / "a" / "summary.json").exists()


def test_the_optimizers_of_the_wheel_need_torch_alone(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys, muloco.pytorch as p; from pathlib import Path\n"
        f"assert Path(p.__file__).is_relative_to({str(installed)!r})\n"
        "theirs = {m.partition('.')[0] for m in sys.modules}\n"
        "found = theirs & {'torchtitan', 'torchft', 'tyro', 'rich', 'datasets', 'scipy', 'matplotlib'}\n"
        "assert not found, found"
    )
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert (installed / "muloco" / "py.typed").exists()


@pytest.mark.parametrize(
    ("package", "words"), [("tokenizers", ["--version"]), ("tyro", ["train", "laptop/muloco", "--help"])]
)
def test_a_missing_package_is_named_with_what_brings_it(
    package: str, words: list[str], installed: Path, tmp_path: Path
) -> None:
    """Whether it is needed by every command, or by one of them."""
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('no {package}', name='{package}')\n")
    done = run(installed, tmp_path, "-m", "muloco", *words)
    assert done.returncode == 2 and "pip install 'muloco[train]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
