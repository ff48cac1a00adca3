"""A live run of `muloco train` under attack: started, watched from outside, ended.

Processes are read from /proc, and syncs and held-out losses from the metrics files, without muloco's own readers, so
that errors in these are not hidden.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attacking.ports import Port, listening
from attacking.small_disks import SmallDisks

CHECKOUT = Path(__file__).parents[2]
CONFIG = CHECKOUT / "config" / "laptop" / "muloco.py"
START_SECONDS = 180.0
GRACE_SECONDS = 30.0
SETTINGS: dict[str, object] = {
    "model.flavor": "tiny",
    "training.seq_len": 64,
    "training.global_batch_size": 12,
    "training.local_batch_size": 2,
    "training.steps": 100_000,
    "lr_scheduler.warmup_steps": 5,
    "validation.sequences": 16,
    "validation.freq": 50,
    "checkpoint.interval": 25,
    "metrics.tensorboard": False,
    "fault_tolerance.sync_steps": 5,
    "fault_tolerance.exchange_timeout_seconds": 5,
    "fault_tolerance.heartbeat_timeout_seconds": 2,
    "fault_tolerance.straggler_timeout_seconds": 10,
    "fault_tolerance.quorum_timeout_seconds": 60,
}
_KEYS = {"time": (float, int), "worker": (int,), "step": (int,), "attempt": (int,)}
"""Keys and types of the values that every line of metrics has."""
HOOK = '''
import sys

if "worker" in sys.orig_argv:
    import os
    import random
    import time
    from pathlib import Path

    from muloco.failpoints import on_hit

    folder = Path(os.environ["MULOCO_ATTACKS"])

    def pace(phase):
        if phase == "inner_step":
            time.sleep(float(os.environ["MULOCO_ATTACKS_PACE"]))

    on_hit(pace)
    import muloco.outer.wire.peer_group as peer_group

    post = peer_group.GlooGroup.post

    def damage(self, received, sizes, *more):
        """Flips a bit of what comes in, once for each file that asks for it."""
        post(self, received, sizes, *more)
        kind = "payload" if received.numel() > 4096 else "message"
        order = folder / f"flip-{kind}"
        try:
            if received.numel() < 64 or sum(map(bool, sizes)) == 0:
                return
            order.rename(order.with_suffix(f".{os.getpid()}"))
        except OSError:
            return  # nobody asked, or another worker was quicker
        place = random.randrange(received.numel())
        received[place] ^= 1 << random.randrange(8)

    peer_group.GlooGroup.post = damage
'''
"""Code that runs in the workers: it slows inner steps down, and on demand flips a bit of the received data."""


def words(values: Mapping[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", *str(value).split())]


def muloco(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "muloco", *arguments]


def environment(**more: str) -> dict[str, str]:
    """Returns this process's environment, changed so that a program imports this checkout."""
    path = ":".join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def command_line(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def alive(process: int) -> bool:
    """Whether a process runs. A zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descendants(process: int) -> list[int]:
    """Returns a process and all of its descendants that still have their parent."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = [process]
    for one in found:
        found += children.get(one, [])
    return found


def wait_for(condition: Callable[[], Any], seconds: float, *, every: float = 0.2) -> Any:
    """Waits until the condition returns a true value, and returns that value, or the last one after the time limit."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(every)
    return found


class LiveRun:
    """A run that this process has started.

    Args:
        outputs: folder for run folders and consoles.
        name: of the run.
        settings: config fields, by name, that override `SETTINGS`.
        workers: K.
        pace: least seconds of an inner step.
        disks: namespace with small disks in which it runs.
    """

    def __init__(
        self,
        outputs: Path,
        name: str,
        settings: Mapping[str, object],
        *,
        workers: int,
        pace: float = 0.1,
        disks: SmallDisks | None = None,
    ):
        self.outputs, self.name, self.workers = outputs, name, workers
        self.root = outputs / name
        self.disks = disks
        self.files = self.root if disks is None else disks.view / self.root.relative_to("/")
        """The run folder as this process sees it."""
        self.console = outputs / f"{name}.console"
        self.hook = outputs / f"{name}.hook"
        self.hook.mkdir(parents=True, exist_ok=True)
        (self.hook / "sitecustomize.py").write_text(HOOK)
        self.settings = {**SETTINGS, "fault_tolerance.group_size": workers, **settings}
        self.settings |= {"run.name": name, "run.outputs": str(outputs)}
        self.environment = environment(MULOCO_ATTACKS=str(self.hook), MULOCO_ATTACKS_PACE=f"{pace:g}")
        self.environment["PYTHONPATH"] = f"{self.hook}:{self.environment['PYTHONPATH']}"
        self.expected = set(range(workers))
        """Numbers of the workers that have to be in every sync."""
        self._within = [] if disks is None else disks.within
        self._known: dict[int, str] = {}
        self._offsets: dict[Path, int] = {}
        self._lines: list[dict[str, Any]] = []
        self._said = 0
        self.process: subprocess.Popen | None = None

    def start(self, *flags: str, stdout: Any = None, **more: object) -> None:
        """Starts `muloco train`; with `--resume` among the flags it continues the existing run."""
        config = str(self.root / "config.json") if "--resume" in flags else str(CONFIG)
        own = more if "--resume" in flags else {**self.settings, **more}
        self._said = self.console.stat().st_size if self.console.exists() else 0
        with self.console.open("a") as output:
            self.process = subprocess.Popen(
                self._command(config, flags, own),
                stdin=self._stdin,
                stdout=output if stdout is None else stdout,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    _stdin: int = subprocess.DEVNULL

    def _command(self, config: str, flags: Sequence[str], own: Mapping[str, object]) -> list[str]:
        return [*self._within, *muloco("train", config, *flags, *words(own))]

    @property
    def status(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    @property
    def supervisor(self) -> int:
        """Id of the process of `muloco train`."""
        assert self.process is not None
        for process in descendants(self.process.pid):
            line = command_line(process)
            if "train" in line and "muloco" in line:
                return process
        return self.process.pid

    def by_number(self) -> dict[int, int]:
        """Ids of the worker processes."""
        assert self.process is not None
        found = {}
        for process in descendants(self.process.pid):
            line = command_line(process)
            if "worker" in line and "--fault_tolerance.replica_id" in line:
                number = int(line[line.index("--fault_tolerance.replica_id") + 1])
                found.setdefault(number, process)
        return found

    def lighthouse(self) -> int | None:
        """Id of its process."""
        assert self.process is not None
        for process in descendants(self.process.pid):
            if "lighthouse" in command_line(process):
                return process
        return None

    def processes(self) -> dict[int, str]:
        """All live processes of the run with a description; they are remembered for `left_over`."""
        assert self.process is not None
        workers = {process: f"worker {number}" for number, process in self.by_number().items()}
        lighthouse = self.lighthouse()
        for process in descendants(self.process.pid):
            if alive(process):
                known = "lighthouse" if process == lighthouse else workers.get(process)
                self._known[process] = known or ("supervisor" if process == self.process.pid else "other")
        return {process: what for process, what in self._known.items() if alive(process)}

    def ports(self) -> list[Port]:
        return listening(self.processes().items())

    def left_over(self) -> list[str]:
        """Processes of the run that are still there."""
        return [f"{what} ({process})" for process, what in self._known.items() if alive(process)]

    def said(self) -> str:
        """Returns the output of the console since the last start."""
        with contextlib.suppress(OSError), self.console.open("rb") as file:
            file.seek(self._said)
            return file.read().decode(errors="replace")
        return ""

    def last_lines(self, count: int = 12) -> str:
        lines = [line.strip() for line in self.said().splitlines() if line.strip()]
        return "\n".join(lines[-count:])

    def lines(self) -> list[dict[str, Any]]:
        """Returns the valid lines of all metrics files, in the order of time."""
        for path in sorted(self.files.glob("metrics/worker-*.jsonl")):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                data = file.read()
                whole = data[: data.rfind(b"\n") + 1]
                self._offsets[path] = self._offsets.get(path, 0) + len(whole)
                for raw in whole.split(b"\n"):
                    with contextlib.suppress(ValueError):
                        line = json.loads(raw)
                        if isinstance(line, dict) and all(type(line.get(key)) in kinds for key, kinds in _KEYS.items()):
                            self._lines.append(line)
        self._lines.sort(key=lambda line: line["time"])
        return self._lines

    def syncs(self, since: float = 0.0) -> list[dict[str, Any]]:
        lines = self.lines()
        return [
            m for m in lines if m.get("event") == "sync" and m["time"] > since and isinstance(m.get("weights"), dict)
        ]

    def step(self) -> int:
        """Step of the newest sync."""
        return max((line["step"] for line in self.syncs()[-self.workers :]), default=0)

    def held_out(self, since: float = 0.0) -> float | None:
        """The newest held-out loss."""
        found = [m["validation_loss"] for m in self.lines() if m["time"] > since and "validation_loss" in m]
        return found[-1] if found else None

    def whole_syncs(self, since: float, members: Iterable[int] | None = None) -> list[int]:
        """Returns the steps of syncs after time `since` that all of these workers have taken part in and reported."""
        wanted = self.expected if members is None else set(members)
        told: dict[int, set[int]] = {}
        for line in self.syncs(since):
            if wanted <= set(map(int, line["weights"])):
                told.setdefault(line["step"], set()).add(line["worker"])
        return sorted(step for step, workers in told.items() if wanted <= workers)

    def goes_on(self, *, since: float | None = None, seconds: float = 60.0, syncs: int = 2) -> bool:
        """Waits for whole syncs after a time (default: now)."""
        after = time.time() if since is None else since
        enough = lambda: self.status is not None or len(self.whole_syncs(after)) >= syncs  # noqa: E731
        wait_for(enough, seconds)
        return self.status is None and len(self.whole_syncs(after)) >= syncs

    def checkpoints(self) -> list[int]:
        found = (path.parent.name.removeprefix("step-") for path in self.files.glob("checkpoint/step-*/manifest.json"))
        return sorted(int(step) for step in found if step.isdecimal())

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.supervisor, number)

    def wait(self, seconds: float) -> int | None:
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def end(self) -> None:
        """Ends whatever is left of the run."""
        if self.process is None:
            return
        self.processes()
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                for process in self.by_number().values():
                    os.kill(process, signal.SIGCONT)
                self.signal(signal.SIGINT)
            self.wait(GRACE_SECONDS)
        for process in self._known:
            if alive(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self.process.wait()
