"""Installs the contents of a bundle and runs `muloco check-gpu`, without a network:

    python3 .gpu/check.py [options of muloco check-gpu]

A bundle holds a copy of this file as check.py, which needs only Python and pip. It installs into a folder of its own in
the system's folder for temporary files, or in $MULOCO_GPU_FOLDER, and changes nothing else. The next call uses the same
installation.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def main(words: list[str], here: Path) -> int:
    """Installs the bundle and becomes the command, so that signals reach it.

    Args:
        words: options of `muloco check-gpu`.
        here: folder of the bundle.

    Returns:
        2, if the bundle cannot be used on this machine.
    """
    facts = json.loads((here / "bundle.json").read_text())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    missing = [name for name in facts["provided"] if not _is_installed(name)]
    if too_large := [name for name in facts["never_packed"] if name in missing]:
        return _refuse(f"this machine lacks {','.join(too_large)}, too large for a bundle; install PyTorch here first")
    if _release(torch := importlib.metadata.version("torch")) < _release(facts["torch"]):
        return _refuse(f"this machine has PyTorch {torch}; it has to be {facts['torch']} or newer")
    lacks = ",".join(sorted({*facts["lacks"], *missing}))
    again = f'build one with `make gpu-bundle GPU_ARGS="--python {python}{" --lacks " + lacks if lacks else ""}"`'
    if python != facts["python"]:
        return _refuse(f"this bundle is for Python {facts['python']}, and this is {python}; {again}")
    if missing:
        return _refuse(f"this machine lacks {','.join(missing)}, which this bundle does not have; {again}")
    parent = Path(os.environ.get("MULOCO_GPU_FOLDER") or tempfile.gettempdir()).absolute()
    folder = parent / f"muloco-gpu-{facts['commit']}-{os.getuid()}"
    if os.path.lexists(folder) and not _is_own(folder):
        return _refuse(f"{folder} is not a folder that only you can write to; name another one in MULOCO_GPU_FOLDER")
    site, tree, done = folder / "site", folder / "muloco", folder / "installed"
    wheels = sorted((here / "wheels").glob("*.whl"))
    content = "\n".join([facts["commit"], *(wheel.name for wheel in wheels)])
    if not (done.exists() and done.read_text() == content):
        sys.stdout.write(f"installing {len(wheels)} packages into {folder}\n")
        sys.stdout.flush()
        shutil.rmtree(folder, ignore_errors=True)
        parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        if status := _install(wheels, site):
            return _refuse(f"pip could not install the wheels (status {status})")
        with tarfile.open(here / "muloco.tar.gz") as packed:
            if hasattr(tarfile, "data_filter"):
                packed.extractall(tree, filter="data")
            else:  # Python before 3.11.4; the files are programs that are run, so whoever made them is trusted
                packed.extractall(tree)
        done.write_text(content)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tree), str(site), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PATH": os.pathsep.join([str(site / "bin"), os.environ.get("PATH", "")]),  # torchrun
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "muloco", "check-gpu", *with_absolute_out(words, Path.cwd())]
    os.chdir(tree)  # so that its muloco is imported
    os.execve(sys.executable, command, environment)


def with_absolute_out(words: list[str], folder: Path) -> list[str]:
    """Returns the words with `--out` as an absolute path: a relative one, or the default, counts from `folder`."""
    parser = argparse.ArgumentParser(prog="check", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    parser.add_argument("--out", default="gpu-check")
    chosen, rest = parser.parse_known_args(words)
    return [*rest, "--out", str(folder / chosen.out)]


def _is_own(folder: Path) -> bool:
    """Whether a folder belongs to this user, and no other user can put a program into it."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _install(wheels: list[Path], site: Path) -> int:
    quiet = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *quiet, "--target", str(site), *map(str, wheels)]
    return subprocess.run(command).returncode


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _release(version: str) -> list[int]:
    """Returns the first two numbers of a version, such as [2, 11] for `2.11.0a0+cu130`."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def _refuse(reason: str) -> int:
    sys.stderr.write(f"check: {reason}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent))
