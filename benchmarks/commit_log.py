"""Times what a worker spends on the commit logs, at the end of a long run of many workers: the line of a round that it
commits, and the question how far the run has come, which it asks when it meets fewer workers than before.

    python benchmarks/commit_log.py > results/commit_log/long.json

It writes the logs of K workers that stream J fragments, as if they had trained for all steps, and reads them as worker
0 does. Times are medians, in milliseconds of wall time; `read_bytes` is what a question reads of all logs together.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from muloco.runs.commits import Commit, CommitLog, LogFile, Progress
from muloco.runs.folder import RunFolder


def written(folder: RunFolder, *, workers: int, steps: int, interval: int, fragments: int) -> int:
    """Writes the logs of a run in which all workers were in all rounds. Returns the bytes of one of them."""
    members = frozenset(range(workers))
    rounds = [
        Commit(1, step, step * fragments // interval % fragments, members)
        for step in range(1, steps + 1)
        if step * fragments % interval < fragments
    ]
    lines = "".join(f"{commit.to_line()}\n" for commit in rounds).encode()
    for worker in range(workers):
        folder.commits(worker).parent.mkdir(parents=True, exist_ok=True)
        folder.commits(worker).write_bytes(lines)
    return len(lines)


def milliseconds(work: Callable[[], Any], repetitions: int) -> float:
    """Median of the wall time of a call."""
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return round(1000 * statistics.median(times), 3)


def bytes_read(work: Callable[[], Any]) -> int:
    """Returns the number of bytes that a call reads from files."""
    real, sizes = os.pread, []

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        data = real(descriptor, size, offset)
        sizes.append(len(data))
        return data

    os.pread = counted
    try:
        work()
    finally:
        os.pread = real
    return sum(sizes)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=32, help="K")
    parser.add_argument("--steps", type=int, default=30_000, help="inner steps")
    parser.add_argument("--interval", type=int, default=30, help="H")
    parser.add_argument("--fragments", type=int, default=4, help="J")
    parser.add_argument("--repetitions", type=int, default=200)
    chosen = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as root:
        folder = RunFolder(Path(root))
        size = written(
            folder,
            workers=chosen.workers,
            steps=chosen.steps,
            interval=chosen.interval,
            fragments=chosen.fragments,
        )
        logs = [LogFile(folder.commits(worker)) for worker in range(chosen.workers)]
        progress = Progress(logs, worker=0, attempt=1)
        log = CommitLog(LogFile(folder.commits(0)), attempt=1)
        assert progress.reached() == chosen.steps

        def ask() -> None:
            assert not progress.passed(chosen.steps, 0)

        found = {
            **vars(chosen),
            "bytes_of_a_log": size,
            "read_bytes": bytes_read(ask),
            "question_ms": milliseconds(ask, chosen.repetitions),
            "line_ms": milliseconds(lambda: log.add(chosen.steps, 0, range(chosen.workers)), chosen.repetitions),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
        }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
