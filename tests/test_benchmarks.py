"""What the benchmarks compute from runs, against figures worked out by hand."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from muloco.resolve import resolve
from muloco.runs.folder import MetricsWriter, RunFolder
from muloco.settings.load import CHECKOUT, load_config
from muloco.training.titan_config import loss_config


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    """`benchmark(name)` is the module of that name."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module


def test_a_filter_is_set_by_rate_burst_and_latency(benchmark) -> None:
    tbf = benchmark("shaped_link").tbf
    assert " ".join(tbf("eth0", 100)) == ("tc qdisc add dev eth0 root tbf rate 100000000bit burst 65536b latency 50ms")
    assert " ".join(tbf("port3", 2.5)) == "tc qdisc add dev port3 root tbf rate 2500000bit burst 65536b latency 50ms"
    assert tbf("eth0", 1000)[10] == "500000b", "4 ms of 1 Gbit/s"


def test_commands_of_a_network(benchmark) -> None:
    network = benchmark("shaped_link").Network(3, 100)
    assert [network.address(worker) for worker in range(3)] == ["10.77.0.1", "10.77.0.2", "10.77.0.3"]
    assert network.within(2, ["ls", "-l"]) == ["ip", "netns", "exec", network.namespaces[2], "ls", "-l"]
    other = benchmark("shaped_link").Network(3, 100)
    assert len({*network.namespaces, network.switch, *other.namespaces, other.switch}) == 8


def test_a_machine_without_the_means_is_told_why(benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    shaped_link = benchmark("shaped_link")
    monkeypatch.setattr(shaped_link.os, "geteuid", lambda: 1000)
    assert "need root" in shaped_link.why_impossible()
    monkeypatch.setattr(shaped_link.os, "geteuid", lambda: 0)
    monkeypatch.setattr(shaped_link.shutil, "which", lambda program: None if program == "tc" else f"/sbin/{program}")
    assert shaped_link.why_impossible().endswith("and tc is not here: apt-get install iproute2")


def write_run(folder: Path) -> RunFolder:
    """Two workers, 4 steps of 100 tokens, a sync after step 2; worker 1 takes twice as long for all of it."""
    run = RunFolder(folder)
    for worker, pace in ((0, 1), (1, 2)):
        writer = MetricsWriter(run.metrics(worker), worker=worker, attempt=1)
        for step, seconds in ((1, 50), (2, 1), (3, 3), (4, 1)):
            writer.write(step, {"loss": 1.0, "tokens": 100 * step, "tokens_per_second": 100 / (seconds * pace)})
            if step in (2, 4):
                sync = {
                    "event": "sync",
                    "fragment": 0,
                    "seconds_waited": 1.5 * pace,
                    "seconds_hidden": 0.5 * pace,
                    "bytes_sent": 8,
                }
                writer.write(step, sync)
        writer.close()
    return run


def test_speed_of_a_run(benchmark, tmp_path: Path) -> None:
    found = benchmark("training_runs").speed(write_run(tmp_path), last=4)
    assert found == {
        "tokens_per_second": pytest.approx(300 / 5 + 300 / 10),
        "step_seconds": 1.5,  # of 1, 1 and 2, 2: the steps after no sync
        "running": pytest.approx(9 / 12),  # 3 x 1 + 3 x 2, and twice 1.5; the sync after the last step is not in it
        "waited": 1.5,
        "hidden": 0.5,
        "hidden_share": 0.25,
        "skew": pytest.approx(0.75),
        "bytes_a_sync": 8,
    }


def test_more_steps_can_be_left_out_at_the_start(benchmark, tmp_path: Path) -> None:
    found = benchmark("training_runs").speed(write_run(tmp_path), last=4, warm=2)
    assert found["tokens_per_second"] == pytest.approx(200 / 4 + 200 / 8) and found["waited"] == 1.5
    log = "\n".join(f"step: {step} loss: 1 tps: {tps}" for step, tps in ((1, 3), (2, 4), (3, 2000)))
    assert benchmark("training_runs").speed_on_console(log, tokens=4000, last=3, warm=2)["step_seconds"] == 2


@pytest.mark.parametrize("graphs", [False, True])
def test_torchtitan_itself_is_given_what_makes_ours_fast(
    benchmark, monkeypatch: pytest.MonkeyPatch, graphs: bool, tmp_path: Path
) -> None:
    plain = benchmark("plain_torchtitan")
    monkeypatch.setattr(
        plain, "prepare_data", lambda config: SimpleNamespace(prepared=(), weights=(), tokenizer_folder="")
    )
    monkeypatch.setattr(plain, "records_cuda_graphs", lambda config: graphs)
    words = ["--model.flavor", "150M", "--training.precision", "autocast", "--training.max_norm", "None"]
    words += ["--compile.enable", "True", "--activation_checkpoint.mode", "full", "--fault_tolerance.group_size", "1"]
    theirs = plain.trainer_config(resolve(load_config("config/laptop/adamw.py", words)), tmp_path)
    assert theirs.compile.enable and theirs.training.disable_cuda_graphs is not graphs
    assert theirs.model_spec.model.autocast and theirs.training.mixed_precision_param == "float32"
    assert theirs.loss == loss_config(vocabulary=128256, seq_len=256) and theirs.training.max_norm == math.inf
    assert type(theirs.activation_checkpoint).__qualname__ == "FullAC.Config"


def test_a_run_in_which_a_worker_was_lost_is_no_measurement(benchmark, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    writer = MetricsWriter(run.metrics(1), worker=1, attempt=2)
    writer.write(4, {"loss": 1.0, "tokens": 400, "tokens_per_second": 50})
    writer.close()
    with pytest.raises(RuntimeError, match=r"workers \[1\] were lost"):
        benchmark("training_runs").speed(run, last=4)


def test_speed_on_torchtitans_console(benchmark) -> None:
    log = """
[titan] 2026-01-01 00:00:00,000 - root - INFO - Training starts at step 1
[titan] 2026-01-01 00:00:00,000 - root - INFO - step:  1  loss:  8.15490  grad_norm:  8.7588  tps: 3  tflops: 0.01
[titan] 2026-01-01 00:00:00,000 - root - INFO - step:  2  loss:  8.15490  grad_norm:  8.7588  tps: 1,000  tflops: 0.01
[titan] 2026-01-01 00:00:00,000 - root - INFO - step:  3  loss:  8.15490  grad_norm:  8.7588  tps: 2,000  tflops: 0.01
[titan] 2026-01-01 00:00:00,000 - root - INFO - step: 10  loss:  8.15490  grad_norm:  8.7588  tps: 9  tflops: 0.01
"""
    found = benchmark("training_runs").speed_on_console(log, tokens=4000, last=3)
    assert found == {"tokens_per_second": pytest.approx(8000 / 6), "step_seconds": 3}


def test_processor_time_of_a_process(benchmark, tmp_path: Path) -> None:
    """A process that computes for 0.5 s and sleeps for 0.5 s has used as much as it says itself."""
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, "worker", f"{tmp_path}/x/config.json"], stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        module = benchmark("processor_time")
        assert module.worker_processes(tmp_path, "x") == [process.pid]
        assert module.worker_processes(tmp_path, "y") == []
        assert 0.4 < module.used(process.pid) < 0.8
        process.kill()


def test_newest_step_on_torchtitans_console(benchmark) -> None:
    assert benchmark("processor_time").newest_step("step:  9  loss: 1 tps: 3\nstep: 10  loss: 1 tps: 3\n") == 10
    assert benchmark("processor_time").newest_step("Training starts at step 1\n") == 0


def test_a_failed_run_is_told_with_the_end_of_its_log(benchmark, tmp_path: Path) -> None:
    runs = benchmark("training_runs")
    child = runs.start("run0", ["sh", "-c", "echo no luck; exit 3"], outputs=tmp_path, threads=1)
    with pytest.raises(RuntimeError, match=r"run0 failed: exit status 3(.|\n)*no luck"):
        runs.wait([child])


def test_bytes_of_sharded_muon_are_the_least(benchmark) -> None:
    """2 bytes an element each way, of all that the owner lacks."""
    result = json.loads((CHECKOUT / "results" / "muon" / "150M_ranks.json").read_text())
    elements = 6 * (4 * 512 * 512 + 3 * 512 * 1408)
    assert [found["ranks"] for found in result["meshes"]] == [2, 4]
    for found in result["meshes"]:
        least = 4 * elements * (found["ranks"] - 1) / found["ranks"]
        assert found["least_bytes"] == found["optimizers"]["muloco Muon"]["bytes"] == least


def test_claims_of_the_study_of_compression_hold_fail_or_are_open(benchmark) -> None:
    study = benchmark("compression_loss_table")
    losses = {
        "fp32": 5.0,
        "fp32-seed2": 5.1,
        "topk-10%": 6.0,
        "topk-2.5%": 7.0,
        "topk-10%-ef": 5.5,
        "topk-2.5%-ef": 7.5,
    }
    losses |= {"statistical-4bit": 5.1, "linear-4bit": 5.2}
    result = {"runs": {f"{m}-{name}": {"loss": value} for m in ("muloco", "diloco") for name, value in losses.items()}}
    found = {claim: holds for claim, method, holds in study.claims(result) if method == "MuLoCo"}
    assert found["fewer elements lose more in top-k"] is True
    assert found["error feedback helps top-k"] is False, "at one fraction it does not"
    assert found["4 bits lose nothing (less than the seeds differ)"] is False, "linear does"
    assert found["2 bits lose more than 4"] is None
    assert study.over_fp32(result, "muloco", "topk-10%", feedback=True) == pytest.approx(10.0)
    assert study.paper_over_fp32("muloco", "topk-10%", feedback=False) == pytest.approx(4.88, abs=0.01)
