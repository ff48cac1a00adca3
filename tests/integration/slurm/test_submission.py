"""Sweeps under a real SLURM: the node limit, a submission that is killed, and scripts that it accepts."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from muloco.settings.load import CHECKOUT
from muloco.sweeps import slurm as questions
from muloco.sweeps.cluster import load_profile
from muloco.sweeps.expand import expand
from muloco.sweeps.files import load_sweep
from muloco.sweeps.folder import SweepFolder
from muloco.sweeps.script import write_scripts

from ...covering import only
from .cluster import SECONDS, start_daemon, why_missing

pytestmark = pytest.mark.integration

LIMIT, JOBS = 3, 20
SWEEP = f"""
from muloco.sweeps.sweep import Grid, Sweep, product


def sweep():
    points = product({{"run.seed": list(range({JOBS}))}})
    return Sweep(Grid(name="s", config="config/laptop/muloco.py", points=points))
"""
PROFILE = """
partition = "main"
gpus_per_node = 8 # so that a job has its node for itself
memory = "100M"
node_limit = {limit}
environment = [
    "mkdir -p {runs}/$SLURM_JOB_NAME; echo $SLURM_JOB_NAME >> {runs}/ran; sleep 0.2",
    "echo '{{}}' > {runs}/$SLURM_JOB_NAME/summary.json; exit 0 # instead of training",
]
"""
COMMAND = """
import sys
from muloco.cli import main
from muloco.sweeps import submit

submit.POLL_SECONDS = 0.2
sys.exit(main(sys.argv[1:]))
"""
BIG_CLUSTER = """
ClusterName=big
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
EnforcePartLimits=ALL
GresTypes=gpu
ResumeProgram=/bin/true
SuspendProgram=/bin/true
SuspendTime=600
NodeName=f[1-512] NodeAddr=127.0.0.1 Port=[20001-20512] CPUs=16 RealMemory=20000 Gres=gpu:8 State=CLOUD
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
"""


def test_a_killed_submission_of_twenty_jobs_goes_on_within_the_node_limit(
    slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    (tmp_path / "s.py").write_text(SWEEP)
    (tmp_path / "cluster.toml").write_text(PROFILE.format(limit=LIMIT, runs=tmp_path / "runs"))
    words = ["sweep", str(tmp_path / "s.py"), "--submit", "--run.outputs", str(tmp_path / "runs")]
    state = tmp_path / "generated_job_files" / "s" / "sweep.json"
    most, done = 0, {}

    def submit() -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", COMMAND, *words], env=slurm, stdout=subprocess.DEVNULL)

    def submitted() -> dict[str, list[str]]:
        jobs = json.loads(state.read_text())["jobs"] if state.exists() else {}
        found = {name: [entry["id"] for entry in job["submissions"]] for name, job in jobs.items()}
        return {name: ids for name, ids in found.items() if ids}

    process = submit()
    deadline = time.monotonic() + 3 * SECONDS  # some 10 s where nothing else runs
    while process.poll() is None or not done:
        assert time.monotonic() < deadline and (done or process.poll() is None)
        most = max(most, sum(job.nodes for job in questions.queue()))
        if not done and len(submitted()) >= 7:
            process.kill()
            assert process.wait(SECONDS) == -signal.SIGKILL
            done = submitted()
            process = submit()
    assert process.returncode == 0 and 7 <= len(done) < JOBS
    after = submitted()
    # the job that was submitted at the kill is not written down where it was done before anybody looked
    assert len(after) >= JOBS - 1 and all(len(ids) == 1 for ids in after.values()) and done.items() <= after.items()
    assert 1 < most <= LIMIT
    while questions.queue():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    ran = (tmp_path / "runs" / "ran").read_text().split()
    assert len(ran) == len(set(ran)) == JOBS and set(after) <= set(ran)
    again = subprocess.run([sys.executable, "-c", COMMAND, *words], env=slurm, capture_output=True, text=True)
    assert again.returncode == 0 and f"0 submitted, {JOBS} queued, running or done" in " ".join(again.stdout.split())


def test_a_failed_job_is_known_by_its_exit_status(
    slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    script = tmp_path / "fails.sh"
    script.write_text(f"#!/bin/bash\n#SBATCH --job-name=fails\n#SBATCH --output={tmp_path}/%j.out\nsleep 1; exit 2\n")
    job = questions.submit(script)
    (queued,) = (found for found in questions.queue() if found.id == job)
    assert (queued.name, queued.nodes, queued.partition, queued.script) == ("fails", 1, "main", str(script))
    deadline = time.monotonic() + SECONDS
    while any(found.id == job for found in questions.queue()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert questions.ended(job) == ("FAILED", 2)
    assert questions.ended("99999") is None
    with pytest.raises(questions.SlurmError, match="sbatch failed: .*Batch job submission failed"):
        script.write_text("#!/bin/bash\n#SBATCH --partition=nowhere\n")
        questions.submit(script)


@pytest.mark.parametrize("every", only([40], [40, 1]))
def test_sbatch_accepts_the_scripts_of_the_paper(tmp_path: Path, every: int) -> None:
    """By a cluster of as many nodes as the largest needs, none of which is ever started. `every`: takes one of so many,
    and the largest."""
    if (reason := why_missing()) is not None:
        pytest.skip(reason)
    papers = load_profile(CHECKOUT / "jobs" / "muloco_paper" / "cluster.toml", partition="main")
    profile = dataclasses.replace(papers, log_folder=str(tmp_path))
    jobs = expand(load_sweep(CHECKOUT / "jobs" / "muloco_paper" / "whole_paper.py"), profile=profile).jobs
    folder = SweepFolder(tmp_path / "scripts")
    written, _ = write_scripts(jobs, folder, profile)
    (tmp_path / "state").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "slurm.conf").write_text(BIG_CLUSTER.format(port=port, folder=tmp_path).strip() + "\n")
    environment = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    daemon = start_daemon(tmp_path, environment, "slurmctld", "-D", "-c")
    try:
        deadline = time.monotonic() + SECONDS
        while subprocess.run(["sinfo"], env=environment, capture_output=True, timeout=SECONDS).returncode:
            assert time.monotonic() < deadline, (tmp_path / "daemons.log").read_text()
            time.sleep(0.2)
        largest = max(written, key=lambda job: job.nodes)
        for job in {largest.name: largest, **{job.name: job for job in written[::every]}}.values():
            command = ["sbatch", "--test-only", str(folder.script(job.name))]
            said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
            assert said.returncode == 0 and "to start at" in said.stderr, f"{job.name}: {said.stderr}"
        assert largest.nodes == 512 and len(written) == len(jobs) > 400
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(SECONDS)
