"""Bad lines in the files that a live run appends to."""

import json
import random
import shutil
import time
from pathlib import Path

from attacking.live import LiveRun
from attacking.registry import Report, Seen, Verdict, attack
from attacking.scenes import Workshop

GOES_ON = "the line is skipped; all workers go on to sync with equal anchors"


@attack("files", must=GOES_ON, scene="crew", short=True)
def bad_lines_in_the_metrics(run: LiveRun, rng: random.Random) -> Seen:
    """Appends NULs, half a JSON object, bytes that are not UTF-8, wrong types and a line of a newer version to a
    metrics file."""
    lines = (
        b'{"event": "sync", "step": \0\0\0\n',
        bytes(40) + b"\n",
        bytes(2**22) + b"\n",
        b'{"event": "sync", "step": 5, "wor\n',
        b"\xff\xfe\xfa\n",
        b"[]\nnull\n17\n",
        json.dumps({"event": "sync", "step": "x", "worker": [], "attempt": {}, "time": "now"}).encode() + b"\n",
        json.dumps({"schema": 99, "event": "sync", "step": 1, "worker": 0, "attempt": 1, "time": 0}).encode() + b"\n",
    )
    return _append(run, sorted(run.files.glob("metrics/*.jsonl"))[:1], lines)


ODD = (
    {"event": "sync"},
    {"event": "state"},
    {"event": "lines_lost"},
    {"event": "checkpoint_failed"},
    {"event": "resume"},
    {"event": "fault", "kind": 7},
    {"event": ["sync"]},
    {"event": "sync", "worker": 99, "fragment": 0, "weights": {"x": "y"}},
    {"event": "sync", "worker": -1, "step": -5, "attempt": -1, "time": None},
    {"loss": "low", "tokens": None},
    {"loss": 1.0},
    {"validation_loss": "high"},
)


def odd_lines() -> tuple[bytes, ...]:
    """Returns JSON objects with the keys that all lines have, without other keys or with values of wrong types."""
    common = {"schema": 1, "attempt": 1, "time": 1.0, "step": 1, "worker": 0}
    return tuple(_json({**common, **odd}) for odd in ODD)


@attack("files", must=GOES_ON, scene="crew", short=True)
def odd_lines_in_the_metrics(run: LiveRun, rng: random.Random) -> Seen:
    """Appends to a file of metrics twelve JSON lines that lack keys or have values of wrong types."""
    return _append(run, sorted(run.files.glob("metrics/*.jsonl"))[:1], odd_lines())


@attack("files", must="--resume and report read the other lines, without a traceback")
def odd_lines_in_a_complete_run(workshop: Workshop, rng: random.Random) -> Report:
    """Appends the same lines to the metrics of a complete run, and asks for a report and its summary."""
    report = Report()
    for arguments in (("report",), ("train", "--resume")):
        root = workshop.finished() if arguments[0] == "report" else workshop.unfinished()
        with (root / "metrics" / "worker-000.jsonl").open("ab") as file:
            file.writelines(odd_lines())
        what = root / "config.json" if arguments[0] == "train" else root
        done = workshop.command(arguments[0], what, *arguments[1:])
        said = (done.stdout + done.stderr).strip()
        last = said.splitlines()[-1] if said else ""
        if done.returncode == 124:
            report.add(Verdict.HUNG, f"{arguments[0]}: {last}")
        elif "Traceback" in said:
            report.add(Verdict.LOST, f"{arguments[0]}: a traceback: {last}")
        elif done.returncode:
            report.add(Verdict.LOST, f"{arguments[0]}: status {done.returncode}: {last}")
        else:
            report.add(Verdict.SURVIVED)
        shutil.rmtree(root.parent)
    return report


@attack("files", must="it is not believed: the run goes on where it is", scene="crew", short=True)
def a_sync_far_ahead_in_the_metrics(run: LiveRun, rng: random.Random) -> Seen:
    """Appends a well-formed line of a sync at step 999999 by a worker of the run to its file of metrics."""
    newest = run.syncs()[-1]
    line = {**newest, "step": 999_999, "time": time.time() - 3600}
    seen = _append(run, [run.files / "metrics" / f"worker-{newest['worker']:03d}.jsonl"], (_json(line),))
    return seen


@attack("files", must=GOES_ON, scene="crew", short=True)
def bad_lines_in_the_commit_log(run: LiveRun, rng: random.Random) -> Seen:
    """Appends NULs, random bytes, half a line and lines without a right checksum to every commit log."""
    logs = sorted(run.files.glob("commits/*.log"))
    if not logs:
        return Seen(impossible="the run has no commit log")
    good = logs[0].read_bytes().splitlines(keepends=True)
    wrong = bytearray(good[-1])
    wrong[0] ^= 1
    lines = (
        bytes(64) + b"\n",
        bytes(2**22) + b"\n",
        rng.randbytes(64).replace(b"\n", b"") + b"\n",
        bytes(wrong),
        good[-1][: len(good[-1]) // 2],
    )
    return _append(run, logs, lines)


def _append(run: LiveRun, files: list[Path], lines: tuple[bytes, ...]) -> Seen:
    for path in files:
        for line in lines:
            with path.open("ab") as file:
                file.write(line)
            time.sleep(0.2)
    return Seen(tries=len(files) * len(lines))


def _json(line: dict) -> bytes:
    return json.dumps(line).encode() + b"\n"
