"""Plays the catalogue of attacks against live runs, and judges whether the runs behave as documented.

    python benchmarks/attacks.py                        all attacks, within about 12 minutes on 2 cores
    python benchmarks/attacks.py short                  the short form, against one run, in about a minute
    python benchmarks/attacks.py --only ports           one family, or one attack by its name
    python benchmarks/attacks.py --list                 prints all attacks, and what must be true after each
    python benchmarks/attacks.py --ports                prints the ports on which a live run listens
    python benchmarks/attacks.py --table RECORD.jsonl   prints the table of a record

Each attack is made on a run of real processes on loopback, or on the files of a finished run. A judge then checks that
syncs go on, anchors are equal on all workers and the held-out loss has not risen, or that the run has ended as
documented, with the reason in its last lines and no process left. The program prints a table and writes a record, with
a JSON object in each line. The exit status is 1 if anything hung or was lost, or if there was no time for all attacks.
"""

import argparse
import datetime
import json
import logging
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attacking import (  # noqa: F401 (each adds its attacks)
    answers,
    checkpoints,
    disks,
    flips,
    kills,
    lines,
    mutations,
    networks,
    secret,
    siege,
    signals,
    stops,
    strangers,
    supervisors,
    wire,
)
from attacking.ports import listing
from attacking.registry import ATTACKS, Attack, Report, Verdict
from attacking.scenes import SCENES, CannotStart, Stage, Workshop
from attacking.table import entry, failed, read, table

RESULTS = Path(__file__).parents[1] / "results" / "attacks"


class Record:
    """Lines that are printed and written as they come, from several threads.

    Args:
        path: the file; None: the lines are only printed.
        about: the first line, which describes the machine.
        outputs: the folder of the runs, which the file does not name.
    """

    def __init__(self, path: Path | None, about: dict[str, object], outputs: Path):
        self._outputs = outputs
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = (path or Path(os.devnull)).open("w", encoding="utf-8")
        self._lock = threading.Lock()
        self.entries: list[dict[str, object]] = []
        self._write(about)

    def add(self, attack: Attack, report: Report, seconds: float) -> None:
        line = entry(attack, report, seconds)
        with self._lock:
            self.entries.append(line)
            self._write(line)
            verdicts = ", ".join(f"{count} {verdict}" for verdict, count in line["verdicts"].items())
            print(f"{attack.family}, {attack.name}: {verdicts} ({seconds:.1f} s)", flush=True)
            for note in report.notes if report.bad else ():
                print(f"    {note}", flush=True)

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(json.dumps(line).replace(f"{self._outputs}/", "") + "\n")
        self._file.flush()


STOP = threading.Event()
"""Set by SIGINT and SIGTERM: no further attack is begun, and all started processes are ended."""


def play(
    attacks: Sequence[Attack], stage: Stage | None, workshop: Workshop, record: Record, *, seed: int, until: float
) -> int:
    """Plays the attacks of one scene one after the other; returns how many there was no time for."""
    left = list(attacks)
    try:
        while left and time.monotonic() < until and not STOP.is_set():
            attack = left.pop(0)
            rng = random.Random(f"{seed} {attack.name}")
            started = time.monotonic()
            try:
                found = stage.play(attack, rng) if stage is not None else attack.play(workshop, rng)
                assert isinstance(found, Report)
            except CannotStart as error:
                found = Report.of(Verdict.LOST, str(error))
            except Exception:
                found = Report.of(Verdict.LOST, f"the attack itself failed: {traceback.format_exc()[-2000:]}")
                if stage is not None:
                    stage.end()
            record.add(attack, found, time.monotonic() - started)
    finally:
        if stage is not None:
            stage.end()
    return len(left)


def chosen_attacks(only: Sequence[str], *, short: bool) -> list[Attack]:
    """
    Raises:
        SystemExit: there is no such family or attack.
    """
    known = {name for attack in ATTACKS for name in (attack.family, attack.name)}
    if unknown := set(only) - known:
        sys.exit(f"no family and no attack is named {', '.join(sorted(unknown))}; --list shows all")
    return [
        attack
        for attack in ATTACKS
        if (not only or attack.family in only or attack.name in only) and (attack.short or not short)
    ]


def show_ports(outputs: Path) -> None:
    stage = Stage(SCENES["crew"], outputs)
    try:
        print(listing(stage.live().ports()))
    finally:
        stage.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", nargs="?", choices=("full", "short"), default="full")
    parser.add_argument("--only", action="append", default=[], help="a family or an attack; may be given several times")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments, victims and mutations")
    parser.add_argument(
        "--mutations", type=int, default=300, help="number of mutations of each kind of file, header and payload"
    )
    parser.add_argument("--lanes", type=int, default=2, help="scenes that are played at the same time")
    parser.add_argument("--limit", type=float, default=1500.0, help="seconds after which no further attack begins")
    parser.add_argument("--outputs", type=Path, help="where run folders are kept; default: they are deleted")
    parser.add_argument(
        "--results", type=Path, help="folder for the record (default: results/attacks for all attacks, else none)"
    )
    parser.add_argument("--list", action="store_true", help="print the catalogue")
    parser.add_argument("--ports", action="store_true", help="print the ports on which a live run listens")
    parser.add_argument("--table", type=Path, help="print the table of a record")
    options = parser.parse_args()
    if options.table is not None:
        print(table(read(options.table)))
        return 0
    attacks = chosen_attacks(options.only, short=options.form == "short")
    if options.list:
        for attack in attacks:
            print(f"{attack.family}, {attack.name}\n    {attack.does}\n    After it: {attack.must}.")
        return 0
    with tempfile.TemporaryDirectory(prefix="attacks-") as scratch:
        outputs = (options.outputs or Path(scratch)).absolute()
        outputs.mkdir(parents=True, exist_ok=True)
        os.environ["MULOCO_CACHE"] = str(outputs / "cache")
        if options.ports:
            show_ports(outputs)
            return 0
        return run(attacks, options, outputs)


def run(attacks: Sequence[Attack], options: argparse.Namespace, outputs: Path) -> int:
    started = time.monotonic()
    logging.getLogger("muloco").setLevel(logging.ERROR)  # it warns of each file that is mutated
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: STOP.set())
    command = f"python benchmarks/attacks.py {' '.join(sys.argv[1:])}".strip()
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {
        "command": command,
        "seed": options.seed,
        "time": now,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }
    results = options.results or (RESULTS if len(attacks) == len(ATTACKS) else None)
    record = Record(results and results / f"{options.form}.jsonl", about, outputs)
    workshop = Workshop(outputs / "workshop", mutations=options.mutations)
    scenes = [scene for scene, _ in Counter(attack.scene for attack in attacks).most_common()]  # the longest first
    until = started + options.limit
    with ThreadPoolExecutor(options.lanes) as lanes:
        jobs = [
            lanes.submit(
                play,
                [attack for attack in attacks if attack.scene == scene],
                Stage(SCENES[scene], outputs) if scene else None,
                workshop,
                record,
                seed=options.seed,
                until=until,
            )
            for scene in scenes
        ]
        left = sum(job.result() for job in jobs)
    print(f"\n{table(record.entries)}\n\n{time.monotonic() - started:.0f} s")
    if left:
        why = "stopped by a signal" if STOP.is_set() else f"{options.limit:g} s had passed (--limit)"
        print(f"{left} attacks were left out: {why}", file=sys.stderr)
    return 1 if left or failed(record.entries) else 0


if __name__ == "__main__":
    sys.exit(main())
