"""The sbatch script: what it asks for, and what it does when it is run, with stand-ins for muloco and scontrol."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.launch.supervisor import RESUMABLE
from muloco.sweeps.cluster import ClusterProfile, load_profile
from muloco.sweeps.script import render_script

from ..patience import PATIENCE

PROFILE = ClusterProfile(
    partition="gpu big",
    account="a1",
    gpus_per_node=8,
    gpu_type="h100",
    cpus_per_node=96,
    memory="0",
    time="24:00:00",
    mail="me@example.org",
    modules=("cuda/12.4", "gcc 13"),
    environment=("source $HOME/muloco/setup.sh",),
    nccl={"NCCL_IB_HCA": "=mlx5_0,mlx5_1"},
    container="apptainer exec --nv 'my image.sif'",
    interface="ib0",
    log_folder="/logs of mine",
)


def script(outputs: Path | str = "/shared/runs", **changes) -> str:
    values = {
        "name": "a-run",
        "config": "config/laptop/muloco.py",
        "overrides": ["--training.steps", "20", "--data.corpus", "it's", "b.txt", "--compile.enable=True"],
        "nodes": 4,
        "profile": PROFILE,
        "outputs": str(outputs),
    }
    return render_script(**{**values, **changes})


def test_the_header() -> None:
    header = [line.removeprefix("#SBATCH ") for line in script().splitlines() if line.startswith("#SBATCH ")]
    assert header == [
        "--job-name=a-run",
        "--nodes=4",
        "--ntasks-per-node=1",
        "--cpus-per-task=96",
        "--gpus-per-node=h100:8",
        "--mem=0",
        "--time=24:00:00",
        "--partition='gpu big'",
        "--account=a1",
        "--mail-user=me@example.org",
        "--mail-type=END,FAIL,REQUEUE",
        "--output='/logs of mine/%x-%j.out'",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@600",
    ]
    bare = script(profile=ClusterProfile(), nodes=1)
    assert [line for line in bare.splitlines() if line.startswith("#SBATCH ")] == [
        "#SBATCH --job-name=a-run",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --output=./%x-%j.out",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@600",
    ]


def test_a_whole_node_for_itself() -> None:
    text = script(profile=ClusterProfile(cpus_per_node=0))
    assert "\n#SBATCH --exclusive\n" in text and "cpus-per-task" not in text


def test_a_name_that_is_none_for_a_job() -> None:
    with pytest.raises(UserError, match="letters, digits, dots, dashes and underscores; got 'a/b'"):
        script(name="a/b")


def test_the_example_is_what_the_template_makes_of_the_example_profile() -> None:
    jobs = Path(__file__).parents[2] / "jobs"
    assert (jobs / "slurm_example.sh").read_text() == script(
        name="my-run",
        overrides=["--fault_tolerance.group_size", "2", "--training.steps", "600"],
        nodes=2,
        profile=load_profile(jobs / "cluster.toml.example"),
        outputs="outputs",
    )


class Machine:
    """Where a script runs: its commands are stand-ins that write down how they were called."""

    def __init__(self, folder: Path, muloco: str):
        self.folder = folder
        self.called = folder / "called"
        self._add("muloco", muloco)
        self._add("scontrol", "")
        self._add("setup.sh", "")
        self._add("module", "exit ${MODULE_STATUS:-0}")
        (folder / "muloco-home").mkdir()
        (folder / "job.sh").write_text(
            script(
                folder / "runs",
                profile=ClusterProfile(
                    interface="ib0", container="in box", nccl={"NCCL_X": "1 2"}, modules=("cuda", "gcc")
                ),
            )
        )
        self.environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(["bash", str(self.folder / "job.sh")], env=self.environment, cwd=self.folder)

    def calls(self) -> list[str]:
        return self.called.read_text().splitlines() if self.called.exists() else []

    def runs(self) -> list[str]:
        """Calls of anything but `module`."""
        return [call for call in self.calls() if not call.startswith("module|")]

    def _add(self, name: str, body: str) -> None:
        program = self.folder / name
        program.write_text(f'#!/bin/bash\nprintf "%s|" {name} "$@" >> {self.called}; echo >> {self.called}\n{body}\n')
        program.chmod(0o755)


ON_SIGNAL = """
trap 'exit 138' USR1
trap 'exit 143' TERM
touch waits
for i in {1..400}; do sleep 0.05; done
"""


def run(machine: Machine, *signals: signal.Signals) -> int:
    process = machine.start()
    deadline = time.monotonic() + PATIENCE
    while signals and not (machine.folder / "waits").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for number in signals:
        process.send_signal(number)
    return process.wait(timeout=PATIENCE)


@pytest.mark.parametrize("status", [0, 1, 2, 143])
def test_its_status_is_that_of_the_run(tmp_path: Path, status: int) -> None:
    machine = Machine(tmp_path, f'echo "$GLOO_SOCKET_IFNAME $NCCL_X $MULOCO_CONTAINER" > environment; exit {status}')
    assert run(machine) == status
    assert machine.runs() == [
        "muloco|train|config/laptop/muloco.py|--training.steps|20|--data.corpus|it's|b.txt|--compile.enable|True|"
        f"--run.name|a-run|--run.outputs|{tmp_path}/runs|"
    ]
    assert (tmp_path / "environment").read_text() == "ib0 1 2 in box\n"


def test_a_module_that_cannot_be_loaded_ends_the_job(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "exit 0")
    machine.environment["MODULE_STATUS"] = "3"
    assert run(machine) == 3
    assert machine.calls() == ["module|load|cuda|"]


def test_a_run_that_is_there_is_taken_up_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "exit 0")
    (tmp_path / "runs" / "a-run").mkdir(parents=True)
    (tmp_path / "runs" / "a-run" / "config.json").touch()
    assert run(machine) == 0
    assert machine.runs() == [f"muloco|train|{tmp_path}/runs/a-run/config.json|--resume|"]


def test_no_line_of_a_note_becomes_a_line_of_bash() -> None:
    note = "training.steps: chosen by hand\ntouch owned\r\necho"
    added = set(script(notes=[note]).splitlines()) - set(script().splitlines())
    assert added == {"# training.steps: chosen by hand", "# touch owned", "# echo"}


def test_after_usr1_an_unfinished_run_is_requeued(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ON_SIGNAL)
    assert run(machine, signal.SIGUSR1) == 138
    assert machine.runs()[1:] == ["scontrol|requeue|77|"]


@pytest.mark.parametrize(("exit_of_the_run", "status"), [("exit 0", 0), ("exit 1", 1)])
def test_after_usr1_a_run_that_ends_or_fails_is_not(tmp_path: Path, exit_of_the_run: str, status: int) -> None:
    machine = Machine(tmp_path, ON_SIGNAL.replace("exit 138", exit_of_the_run))
    assert run(machine, signal.SIGUSR1) == status
    assert len(machine.runs()) == 1


@pytest.mark.parametrize(("earlier", "requeued"), [(None, True), ("9", True), ("10", False)])
def test_a_run_that_can_be_resumed_is_requeued_a_bounded_number_of_times(
    tmp_path: Path, earlier: str | None, requeued: bool
) -> None:
    machine = Machine(tmp_path, "exit 75")
    if earlier is not None:
        machine.environment["SLURM_RESTART_COUNT"] = earlier
    assert run(machine) == RESUMABLE
    assert machine.runs()[1:] == ["scontrol|requeue|77|"] * requeued


def test_after_term_it_is_not(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ON_SIGNAL)
    assert run(machine, signal.SIGTERM) == 143
    assert len(machine.runs()) == 1


def test_it_passes_a_signal_on_and_waits_for_a_run_that_takes_its_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ON_SIGNAL.replace("trap 'exit 138' USR1", "trap 'sleep 1; exit 138' USR1"))
    started = time.monotonic()
    assert run(machine, signal.SIGUSR1) == 138
    assert time.monotonic() - started >= 1 and machine.runs()[1:] == ["scontrol|requeue|77|"]
