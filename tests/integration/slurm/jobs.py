"""Runs as SLURM jobs: submitted, watched and, once they have ended, looked into."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from muloco.runs.folder import RunFolder, read_lines
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.script import render_script

from ..runs import TINY, Run

SECONDS = 1200
"""Whatever takes longer hangs, on a busy machine too; a run takes about ten seconds where nothing else runs."""
HOOK = """
import sys

if "worker" in sys.orig_argv:
    import time
    from muloco.failpoints import on_hit

    on_hit(lambda phase: time.sleep(0.1) if phase == "inner_step" else None)
"""
"""Workers do not rush through their steps."""


class Jobs:
    """Those of one test.

    Args:
        environment: in which SLURM's commands find the cluster.
        folder: scratch.
    """

    def __init__(self, environment: dict[str, str], folder: Path):
        self._environment = environment
        self._folder = folder
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(HOOK)
        self.profile = ClusterProfile(
            partition="main",
            gpus_per_node=1,
            cpus_per_node=4,
            memory="1G",
            time="0:30:00",
            signal_seconds=60,
            environment=(
                f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={folder}/hook:$PYTHONPATH",
                "export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=  # the GPUs are fake",
            ),
            log_folder=str(folder),
        )

    def submit(self, name: str, config: str, *, nodes: int, gpus: int = 1, cpus: int = 4, **overrides: Any) -> str:
        """Submits a run of the tiny flavor and returns the job's id; `__` in a name stands for the dot."""
        values = {**TINY, **{key.replace("__", "."): value for key, value in overrides.items()}}
        script = render_script(
            name=name,
            config=str(Path(__file__).parents[3] / config),
            overrides=[word for key, value in values.items() for word in (f"--{key}", str(value))],
            nodes=nodes,
            profile=dataclasses.replace(self.profile, gpus_per_node=gpus, cpus_per_node=cpus),
            outputs=str(self._folder / "runs"),
        )
        (self._folder / f"{name}.sh").write_text(script)
        return self.submit_again(name)

    def submit_again(self, name: str) -> str:
        """The same script once more."""
        return self.slurm("sbatch", "--parsable", str(self._folder / f"{name}.sh")).strip()

    def slurm(self, *command: str) -> str:
        finished = subprocess.run(
            command, env=self._environment, cwd=self._folder, capture_output=True, text=True, timeout=SECONDS
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what}\n{self.output()}"
            time.sleep(0.2)

    def wait_for_line(self, name: str, job: str, **having: Any) -> None:
        """Waits for a line of metrics with these values, from worker 0."""
        path = self.folder(name).metrics(0)

        def found() -> bool:
            assert self.state(job) in ("PENDING", "RUNNING"), self.output()
            lines = read_lines(path) if path.exists() else ()
            return any(all(line.get(key) == value for key, value in having.items()) for line in lines)

        self.wait_until(found, f"no line with {having}")

    def finish(self, name: str, job: str) -> Run:
        """The run, once its job has ended for good, with the job's exit status."""
        self.wait_until(lambda: self.state(job) not in ("PENDING", "RUNNING", "COMPLETING"), "the job does not end")
        code = self.field(job, "ExitCode")
        status, signal = map(int, code.split(":"))
        return Run(folder=self.folder(name), status=128 + signal if signal else status, output=self.output())

    def state(self, job: str) -> str:
        return self.field(job, "JobState")

    def field(self, job: str, name: str) -> str:
        """What `scontrol show job` has under that name."""
        found = re.search(rf"\b{name}=(\S*)", self.slurm("scontrol", "show", "job", job))
        assert found is not None
        return found[1]

    def folder(self, name: str) -> RunFolder:
        return RunFolder(self._folder / "runs" / name)

    def output(self) -> str:
        """What all jobs have said."""
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("*.out")))

    def processes(self, name: str) -> list[int]:
        """Of a run, on all nodes: they are on this machine."""
        found = subprocess.run(["pgrep", "-f", f"{self.folder(name).root}/"], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split() if int(pid) != os.getpid()]


def attempts(run: Run) -> set[int]:
    """The attempts that all lines of a run's metrics are from."""
    return {line["attempt"] for path in run.folder.metrics_files().values() for line in read_lines(path)}


def steps(run: Run, worker: int) -> list[int]:
    """The inner steps that a worker has logged, in the order written."""
    lines = map(json.loads, run.folder.metrics(worker).read_text().splitlines())
    return [line["step"] for line in lines if "loss" in line]
