"""Looks how soon the simulation notices planted mistakes: each is made in a copy of the package, never in the tree."""

import argparse
import faulthandler
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from tests.simulation.faults import Schedule, draw
from tests.simulation.planted import MUTANTS, Mutant
from tests.simulation.shrink import kind_of
from tests.simulation.test_found import FOUND

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results/simulation/mutants.json"
HANGS_SECONDS = 300
"""Real time after which a schedule counts as one that does not end."""
_one_schedule = Lock()


@dataclass(frozen=True, kw_only=True)
class Found:
    """What has come of a mutant."""

    mutant: str
    found_by: str
    """How the schedule has failed, without numbers; empty: none has failed."""
    schedules: int
    """How many, from the first seed on, are enough; or how many have run without a failure."""
    seed: int | None
    """Of the schedule that has failed."""
    seconds: float
    commit: str


def hunt(mutant: Mutant, first: int, schedules: int, hint: int | None = None) -> Found:
    """Runs schedules of consecutive seeds with a mutant until one fails that does not fail without it; and if none
    does, those in which the simulation has found mistakes of the engine.

    Args:
        mutant: the mistake.
        first: the first seed.
        schedules: most schedules.
        hint: a seed that is tried before the others, if it is one of them.
    """
    started, end = time.monotonic(), first + schedules
    seeds = [*([hint] if hint in range(first, end) else []), *range(first, end)]
    with tempfile.TemporaryDirectory() as folder:
        plant(mutant, Path(folder))
        while (failed := _first_failure(Path(folder), seeds))[0] is not None and fails_anyway(failed[0]):
            seeds = seeds[seeds.index(failed[0]) + 1 :]
    return Found(
        mutant=mutant.name,
        found_by=failed[1],
        schedules=schedules if failed[0] is None else failed[0] - first + 1,
        seed=failed[0],
        seconds=round(time.monotonic() - started, 1),
        commit=commit(),
    )


def plant(mutant: Mutant, folder: Path) -> None:
    """Copies the package into a folder, with a mistake in it."""
    shutil.copytree(ROOT / "muloco", folder / "muloco")
    file = folder / "muloco" / mutant.file
    file.write_text(mutant.applied(file.read_text()))


def _first_failure(folder: Path, seeds: Sequence[int]) -> tuple[int | None, str]:
    """Returns the first of the seeds at which the package in a folder fails, and how it fails. Without a seed it fails
    in a schedule of `FOUND`; then without text it does not fail."""
    program = "import json, sys; from tests.simulation.mutants import run_here; run_here(json.load(sys.stdin))"
    run = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(seeds),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    if not lines:
        raise RuntimeError(f"the simulation could not be started:\n{run.stderr}")
    seed, how = lines[-1]
    if run.returncode:
        how = f"does not end, or ends Python: {' '.join(run.stderr.split())[:80]}"
    return seed, how


def run_here(seeds: Sequence[int]) -> None:
    """Runs the schedules of seeds with the package in the working folder until one fails. Prints each seed before its
    schedule, and at the end that of the one that fails, and how it fails."""
    import muloco

    assert Path(muloco.__file__).is_relative_to(Path.cwd()), "this is another copy of the package"
    for seed in seeds:
        _say(seed, "")
        if how := _fails(draw(seed)):
            return _say(seed, how)
    _say(None, "")
    for what, schedule in FOUND.items():
        if how := _fails(schedule):
            return _say(None, f"{how} (only by the schedule of: {what})")


def _fails(schedule: Schedule) -> str:
    faulthandler.dump_traceback_later(HANGS_SECONDS, exit=True)
    how = kind_of(schedule.run())
    faulthandler.cancel_dump_traceback_later()
    return how


def _say(seed: int | None, how: str) -> None:
    sys.stdout.write(f"{json.dumps([seed, how])}\n")
    sys.stdout.flush()


@cache
def fails_anyway(seed: int) -> bool:
    """Whether the schedule of a seed fails without a mistake."""
    with _one_schedule:
        return draw(seed).run().failure is not None


def hunt_all(
    mutants: Sequence[Mutant], first: int, schedules: int, jobs: int, hints: Mapping[str, int | None]
) -> Iterator[Found]:
    """Yields what has come of each mutant."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda mutant: hunt(mutant, first, schedules, hints.get(mutant.name)), mutants)


@cache
def commit() -> str:
    """Returns the commit of the tree, `-dirty` if files have changed since."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return told.stdout.strip()


def recorded(path: Path) -> dict[str, dict[str, Any]]:
    """Returns what a file has of each mutant."""
    return {row["mutant"]: row for row in json.loads(path.read_text())["mutants"]} if path.exists() else {}


def record(rows: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Writes what has come of mutants into a file. It names one commit if all were hunted at the same one."""
    commits = sorted({row["commit"] for row in rows.values()})
    told = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "command": f"python -m tests.simulation.mutants {' '.join(sys.argv[1:])}".strip(),
        "commit": ", ".join(commits),
        "mutants": [rows[name] for name in MUTANTS if name in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n")


def main() -> int:
    """Returns the exit status: 1 if a mutant has survived that ought not to."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants (default: all)")
    parser.add_argument("--schedules", type=int, metavar="N", default=10_000, help="most for each (default 10000)")
    parser.add_argument("--first", type=int, metavar="N", default=0, help="seed of the first one (default 0)")
    parser.add_argument("--jobs", type=int, metavar="J", default=2, help="number of processes (default 2)")
    parser.add_argument("--list", action="store_true", help="say what each one does wrong, and run none")
    args = parser.parse_args()
    if unknown := set(args.names) - set(MUTANTS):
        parser.error(f"there is no mutant {', '.join(sorted(unknown))}; --list shows all")
    chosen = [MUTANTS[name] for name in args.names or MUTANTS]
    if args.list:
        for mutant in chosen:
            sys.stdout.write(f"{mutant.name:<32} {mutant.wrong}\n")
        return 0
    sys.stdout.write(f"{'mutant':<32} {'schedules':>9} {'seed':>6} {'seconds':>8}  found by\n")
    surprising, rows = 0, recorded(RESULTS)
    hints = {name: row["seed"] for name, row in rows.items()}
    for found in hunt_all(chosen, args.first, args.schedules, args.jobs, hints):
        seed = "" if found.seed is None else found.seed
        how = found.found_by or f"nothing; {MUTANTS[found.mutant].survives or 'this is not expected'}"
        sys.stdout.write(f"{found.mutant:<32} {found.schedules:>9} {seed:>6} {found.seconds:>8.1f}  {how}\n")
        sys.stdout.flush()
        rows[found.mutant] = asdict(found)
        record(rows, RESULTS)
        surprising += not found.found_by and not MUTANTS[found.mutant].survives
    return int(surprising > 0)


if __name__ == "__main__":
    sys.exit(main())
