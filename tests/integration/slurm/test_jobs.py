"""Runs as jobs of a real SLURM, on emulated nodes: where workers go, and what interruptions do to them."""

import os
import re
import signal

import pytest

from muloco.training.environment import SECRET_FILE

from ...listening import command_lines
from .jobs import Jobs, attempts, steps

pytestmark = pytest.mark.integration

MULOCO, ADAMW = "config/laptop/muloco.py", "config/laptop/adamw.py"
SHORT = {"training__steps": 8, "fault_tolerance__sync_steps": 4, "metrics__log_freq": 1}
LONG = {**SHORT, "training__steps": 40}


def test_two_workers_on_a_node_requeue_themselves_after_usr1_and_go_on_where_they_were(jobs: Jobs) -> None:
    job = jobs.submit("two", MULOCO, nodes=1, gpus=2, **LONG)
    jobs.wait_for_line("two", job, event="sync", step=8)
    secret = (jobs.folder("two").root / SECRET_FILE).read_text().strip()
    assert len(secret) == 64 and [line for line in command_lines() if secret in line] == []
    jobs.slurm("scancel", "--signal=USR1", "--batch", job)
    run = jobs.finish("two", job)
    assert run.status == 0 and jobs.state(job) == "COMPLETED" and jobs.field(job, "Restarts") == "1", run.output
    assert f"2 workers on 1 of 1 nodes of job {job}, CPU, gloo" in run.output
    assert attempts(run) == {1, 2}
    for worker in (0, 1):
        assert steps(run, worker) == list(range(1, 41)), "no step was lost or done twice"
    assert run.summary()["steps"] == 40 and (run.folder.checkpoint / "step-40" / "manifest.json").exists()
    assert all(len(set(digests.values())) == 1 and len(digests) == 2 for digests in run.digests())
    for log in (0, 1, "lighthouse"):
        assert run.folder.log(log).stat().st_size > 0


@pytest.mark.full
def test_data_parallel_ranks_over_two_nodes_make_way_for_an_urgent_job_and_come_back(jobs: Jobs) -> None:
    job = jobs.submit("ddp", ADAMW, nodes=2, parallelism__data_parallel_replicate_degree=2, **LONG)
    jobs.wait_for_line("ddp", job, step=3)
    urgent = jobs.slurm(
        *("sbatch", "--parsable", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null"),
        *("--wrap", "sleep 1"),
    ).strip()
    jobs.wait_until(lambda: jobs.state(urgent) == "COMPLETED", "the urgent job does not run")
    assert jobs.state(job) == "PENDING"
    run = jobs.finish("ddp", job)
    assert run.status == 0 and jobs.field(job, "Restarts") == "1", run.output
    assert f"1 worker of 2 ranks on 2 of 2 nodes of job {job}, CPU, gloo" in run.output
    assert attempts(run) == {1, 2} and steps(run, 0) == list(range(1, 41))
    assert run.summary()["steps"] == 40


@pytest.mark.full
def test_workers_that_span_nodes(jobs: Jobs) -> None:
    settings = {"parallelism__data_parallel_shard_degree": 2, **SHORT}
    job = jobs.submit("span", MULOCO, nodes=4, cpus=0, **settings)
    run = jobs.finish("span", job)
    assert jobs.field(job, "NumCPUs") == "64", "whole nodes, as it was said"
    assert run.status == 0 and jobs.state(job) == "COMPLETED", run.output
    assert f"2 workers of 2 ranks on 4 of 4 nodes of job {job}, CPU, gloo" in run.output
    assert len(run.digests()) == 2 and all(len(set(digests.values())) == 1 for digests in run.digests())
    assert run.summary()["steps"] == 8 and run.validation()[8] < run.validation()[0]


@pytest.mark.full
def test_a_cancelled_job_stays_cancelled_and_goes_on_when_it_is_submitted_again(jobs: Jobs) -> None:
    job = jobs.submit("cancelled", ADAMW, nodes=1, checkpoint__interval=5, **LONG)
    jobs.wait_until(lambda: "wrote checkpoint step-5" in jobs.output(), "no checkpoint")
    jobs.slurm("scancel", job)
    run = jobs.finish("cancelled", job)
    assert jobs.state(job) == "CANCELLED" and jobs.field(job, "Restarts") == "0"
    assert jobs.processes("cancelled") == [] and not run.folder.summary.exists()
    again = jobs.submit_again("cancelled")
    run = jobs.finish("cancelled", again)
    assert run.status == 0 and jobs.state(again) == "COMPLETED", run.output
    assert attempts(run) == {1, 2} and run.summary()["steps"] == 40


@pytest.mark.full
def test_a_failing_run_makes_a_failed_job(jobs: Jobs) -> None:
    job = jobs.submit("failing", ADAMW, nodes=1, optimizer__lr=1e30, **LONG)
    run = jobs.finish("failing", job)
    assert run.status == 3 and jobs.state(job) == "FAILED" and jobs.field(job, "Restarts") == "0"
    assert re.search(r"worker 0 failed: NonFiniteGradient: NaN or Inf in the gradient of ", run.output)


@pytest.mark.full
def test_a_run_that_can_be_resumed_is_requeued(jobs: Jobs) -> None:
    """Its only worker is killed behind a checkpoint."""
    job = jobs.submit("killed", ADAMW, nodes=1, checkpoint__interval=4, fault_tolerance__resumes=0, **LONG)
    jobs.wait_until(lambda: "wrote checkpoint step-4" in jobs.output(), "no checkpoint")
    for process in jobs.processes("killed"):
        os.kill(process, signal.SIGKILL)
    run = jobs.finish("killed", job)
    assert run.status == 0 and jobs.state(job) == "COMPLETED" and jobs.field(job, "Restarts") == "1", run.output
    assert "is kept; resume with: muloco train" in run.output
    assert attempts(run) == {1, 2} and run.summary()["steps"] == 40
