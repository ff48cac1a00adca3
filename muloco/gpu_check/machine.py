"""Facts about the machine. A separate process reads them, so that the command itself holds no GPU memory."""

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from typing import Any

from muloco.errors import UserError
from muloco.launch.processes import exception_in
from muloco.settings.load import CHECKOUT

PACKAGES = ("torch", "triton", "torchtitan", "torchft", "lm-eval", "transformers")
COMMIT_FILE = "COMMIT"
"""Name of a file in the sources of a bundle, which have no git folder: it holds their commit."""


def facts() -> dict[str, Any]:
    """Returns the devices of this machine and the versions of its packages, as the field `machine` of a record.

    Raises:
        UserError: PyTorch cannot be used here.
    """
    done = subprocess.run([sys.executable, "-m", "muloco.gpu_check.machine"], capture_output=True, text=True)
    if done.returncode:
        reason = exception_in(done.stderr) or done.stderr.strip()[-300:]
        raise UserError(f"PyTorch cannot be used here: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def commit() -> str:
    """Returns the commit of the running code, with a plus sign if files differ from it; `unknown` without a
    checkout."""
    packed = CHECKOUT / COMMIT_FILE
    if packed.is_file():
        return packed.read_text().strip()
    if not (CHECKOUT / ".git").exists() or shutil.which("git") is None:
        return "unknown"

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(CHECKOUT), *words], capture_output=True, text=True).stdout.strip()

    name = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{name}{'+' if changed else ''}" if name else "unknown"


def _here() -> dict[str, Any]:
    import torch

    gpus = torch.cuda.device_count()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(0) if gpus else platform.processor() or platform.machine(),
        "gpus": gpus,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        **{package: _version(package) for package in PACKAGES},
    }
    if gpus:
        found["memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        found["driver"] = _driver()
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return None
    said = subprocess.run(query, capture_output=True, text=True).stdout.split()
    return said[0] if said else None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_here()) + "\n")
