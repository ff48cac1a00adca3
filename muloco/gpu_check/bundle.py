"""Packs what `muloco check-gpu` needs on a machine without a network: `python -m muloco.gpu_check.bundle --help`.

    .gpu/  check.py        installs the rest and runs `muloco check-gpu`; needs only Python and pip
           bundle.json     the version of Python, the oldest release of torch, the commit, and the packages that the
                           machine has to have
           wheels/         packages
           muloco.tar.gz   the sources of the commit, with tests and benchmarks

A bundle holds the requirements of `muloco[train,eval]` in the versions of the environment that builds it, without those
that the machine provides: images with PyTorch have torch, triton and common scientific packages.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from muloco.analysis.output import check_folder
from muloco.errors import UserError
from muloco.gpu_check import from_bundle
from muloco.gpu_check.machine import COMMIT_FILE, commit
from muloco.settings.load import CHECKOUT

MOST_MIB = 40
PROVIDED = (
    "torch",
    "triton",
    "accelerate",
    "huggingface-hub",
    "hypothesis",
    "jinja2",
    "matplotlib",
    "numpy",
    "pandas",
    "protobuf",
    "pyarrow",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "requests",
    "rich",
    "sacrebleu",
    "scikit-learn",
    "scipy",
    "tensorboard",
    "tokenizers",
    "transformers",
)
"""Packages that the machine is expected to have, together with all that they require."""
NOT_NEEDED = ("muloco", "wandb")
"""Packages that are not packed as wheels: muloco is packed as sources, and only runs that log to W&B need wandb."""
SOURCES_ALONE = ("rouge-score", "sqlitedict", "word2number")
"""Requirements of lm-eval that are published without a wheel. Their wheels are built here, for any machine."""
NEVER_PACKED = ("torch", "triton")
"""Packages that are too large for a bundle."""
PYTHONS = ("3.11", "3.12", "3.13")
GLIBC = ("2_28", "2_27", "2_24", "2_17")
TREE = ("muloco", "config", "jobs", "benchmarks", "tests", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def build(folder: Path, *, python: str, provided: Sequence[str], extra: Sequence[str]) -> None:
    """Makes or updates a bundle. It keeps the wheels that are already there in the right version.

    Args:
        folder: the folder of the bundle.
        python: the version of Python on the machine, for example `3.12`.
        provided: names of packages that the machine has.
        extra: further packages to pack, as pip accepts them. Their requirements are not packed.

    Raises:
        UserError: muloco is not in a git checkout, a package cannot be downloaded or built, or the bundle is too
            large.
    """
    if not (CHECKOUT / ".git").exists():
        raise UserError("a bundle can only be made in a git checkout of muloco, and this is not one")
    pins = {name: metadata.version(name) for name in needed(provided, environment(python))}
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    missing = pins.keys() - _keep_only(wheels, pins, python)
    _download(wheels, [f"{name}=={pins[name]}" for name in sorted(missing.difference(SOURCES_ALONE))], python)
    _download(wheels, extra, python)
    _build_wheels(wheels, [f"{name}=={pins[name]}" for name in sorted(missing.intersection(SOURCES_ALONE))])
    _pack_sources(folder / "muloco.tar.gz")
    shutil.copy(from_bundle.__file__, folder / "check.py")
    facts = {
        "python": python,
        "torch": oldest_torch(),
        "commit": commit().rstrip("+"),
        "provided": sorted(provided),
        "lacks": sorted(set(PROVIDED) - set(provided)),
        "never_packed": NEVER_PACKED,
        "packages": pins,
    }
    (folder / "bundle.json").write_text(json.dumps(facts, indent=2) + "\n")
    check_size(folder)


def oldest_torch() -> str:
    """Returns the oldest release of torch that the extra `train` of pyproject.toml allows, for example `2.11`."""
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    torch = next(requirement for requirement in map(Requirement, extras["train"]) if requirement.name == "torch")
    return next(bound.version for bound in torch.specifier if bound.operator == ">=")


def needed(provided: Iterable[str], environment: Mapping[str, str]) -> list[str]:
    """Returns the names of the distributions that `muloco[train,eval]` requires and the machine does not provide."""
    return sorted(closure(["muloco[train,eval]"], environment) - closure(provided, environment) - set(NOT_NEEDED))


def closure(roots: Iterable[str], environment: Mapping[str, str]) -> set[str]:
    """Returns the names of all distributions that requirements lead to, by the metadata of the installed ones.

    Args:
        roots: requirements, which may have extras.
        environment: values of the variables in markers, except `extra`.
    """
    seen: dict[str, set[str]] = {}
    waiting = [Requirement(root) for root in roots]
    while waiting:
        requirement = waiting.pop()
        known = seen.setdefault(canonicalize_name(requirement.name), set())
        new = {"", *requirement.extras} - known
        known |= new
        try:
            texts = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:  # not installed here, so only other platforms require it
            continue
        for required in map(Requirement, texts if new else ()):
            marker = required.marker
            if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in new):
                waiting.append(required)
    return set(seen)


def environment(python: str) -> dict[str, str]:
    """Returns the values of the variables in markers on the machine, which has Linux as this one does, for a version of
    Python such as `3.12`."""
    here = {name: str(value) for name, value in default_environment().items()}
    return {**here, "python_version": python, "python_full_version": f"{python}.0", "platform_machine": "x86_64"}


def check_size(folder: Path) -> float:
    """Returns the size of a bundle in MiB.

    Raises:
        UserError: the bundle is larger than `MOST_MIB`.
    """
    sizes = {path: path.stat().st_size / 2**20 for path in folder.rglob("*") if path.is_file()}
    total = sum(sizes.values())
    if total > MOST_MIB:
        largest = sorted(sizes, key=lambda path: sizes[path], reverse=True)[:3]
        names = ", ".join(f"{path.name} ({sizes[path]:.1f})" for path in largest)
        raise UserError(f"the bundle has {total:.1f} MiB, and at most {MOST_MIB} are allowed. Largest files: {names}")
    return total


def _keep_only(wheels: Path, pins: Mapping[str, str], python: str) -> set[str]:
    """Removes wheels of an earlier bundle that do not belong to this one, or are for another version of Python. Returns
    the names of the packages whose wheels stay."""
    digits, kept = python.replace(".", ""), set()
    for path in wheels.glob("*.whl"):
        name, version, _, tags = parse_wheel_filename(path.name)
        fits = any(tag.interpreter in ("py3", f"py{digits}", f"cp{digits}") or tag.abi == "abi3" for tag in tags)
        if fits and name in pins and version == Version(pins[name]):
            kept.add(str(name))
        else:
            path.unlink()
    return kept


def _download(wheels: Path, pins: Sequence[str], python: str) -> None:
    tags = [f"manylinux_{glibc}_x86_64" for glibc in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    target = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:"]
    _pip("download", "--dest", wheels, *target, *(f"--platform={tag}" for tag in tags), pins=pins)


def _build_wheels(wheels: Path, pins: Sequence[str]) -> None:
    before = set(wheels.iterdir())
    _pip("wheel", "--wheel-dir", wheels, pins=pins)
    for path in set(wheels.iterdir()) - before:
        if not path.name.endswith("-none-any.whl"):
            path.unlink()
            raise UserError(f"{path.name} was built here, since there is none to download, and fits only this machine")


def _pip(command: str, *words: object, pins: Sequence[str]) -> None:
    if not pins:
        return
    line = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*line, *map(str, words), *pins], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()
        raise UserError(f"pip {command} failed: {said[-1].strip() if said else f'status {done.returncode}'}")


def _pack_sources(file: Path) -> None:
    """Packs the committed sources, and a file with the name of the commit, since the bundle has no git folder."""
    with tempfile.TemporaryDirectory() as scratch:
        name = Path(scratch) / COMMIT_FILE
        name.write_text(f"{commit().rstrip('+')}\n")
        words = ["git", "-C", str(CHECKOUT), "archive", "--format=tar.gz", "-9", f"--add-file={name}"]
        done = subprocess.run([*words, f"--output={file.absolute()}", "HEAD", *TREE], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"git archive failed: {done.stderr.strip()}")


def _names(word: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in word.split(",") if name.strip())


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m muloco.gpu_check.bundle",
        description="Pack everything that muloco check-gpu needs on a machine without a network. On that machine, run "
        "python3 .gpu/check.py [options of muloco check-gpu].",
    )
    parser.add_argument("--folder", type=Path, default=CHECKOUT / ".gpu", help="folder of the bundle (default: .gpu)")
    parser.add_argument(
        "--python",
        default="3.12",
        metavar="3.N",
        help=f"version of Python on that machine: {', '.join(PYTHONS)} (default: 3.12)",
    )
    may_lack = [name for name in PROVIDED if name not in NEVER_PACKED]
    parser.add_argument(
        "--lacks",
        type=_names,
        default=(),
        metavar="A,B",
        help=f"packages that the machine lacks, out of {', '.join(may_lack)}",
    )
    parser.add_argument(
        "--also", type=_names, default=(), metavar="A,B", help="further packages to pack, for example optimuon"
    )
    chosen = parser.parse_args(words)
    try:
        if chosen.python not in PYTHONS:
            raise UserError(f"--python must be one of {', '.join(PYTHONS)}; got {chosen.python}")
        for name in chosen.lacks:
            if name in NEVER_PACKED:
                raise UserError(f"--lacks: {name} is too large for a bundle, so the machine has to have it")
            if name not in may_lack:
                raise UserError(f"--lacks must be names of {', '.join(may_lack)}; got {name}")
        check_folder("--folder", chosen.folder)
        provided = [name for name in PROVIDED if name not in chosen.lacks]
        build(chosen.folder, python=chosen.python, provided=provided, extra=chosen.also)
    except UserError as error:
        sys.stderr.write(f"bundle: {error}\n")
        return 2
    if commit().endswith("+"):
        sys.stderr.write("bundle: changes that are not committed are not in the bundle\n")
    count, size = len(list(chosen.folder.glob("wheels/*.whl"))), check_size(chosen.folder)
    sys.stdout.write(f"{chosen.folder}: {count} wheels for Python {chosen.python} and muloco, {size:.1f} MiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
