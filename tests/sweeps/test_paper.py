"""The paper's sweeps: its tables, cell by cell, and all its runs, as they were when somebody last looked at them."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from muloco.model.flavors import flavor
from muloco.recipes import model_map
from muloco.resolve import resolve
from muloco.settings.config import Config
from muloco.settings.fields import flatten
from muloco.settings.load import CHECKOUT
from muloco.sweeps.cluster import ClusterProfile
from muloco.sweeps.expand import Expansion, expand
from muloco.sweeps.files import load_sweep
from muloco.sweeps.listing import COLUMNS, row
from muloco.sweeps.script import job_script

from ..papers_tables import DECAYS, SIZES, STEPS
from ..patience import PATIENCE

JOBS = CHECKOUT / "jobs" / "muloco_paper"
GOLDEN = Path(__file__).parent / "golden"
PROFILE = ClusterProfile(gpus_per_node=8, memory="0", time="24:00:00", log_folder="/sweep/logs")
PUBLISHED = {  # PAPER 4.1: learning rate, weight decay, outer lr and momentum
    "muloco_3.1B_K16_B2048_lr0.015625": (0.015625, 2.5e-4, 1.0, 0.9),
    "diloco_3.1B_K16_B1024_lr0.000691": (0.000691, 1.25e-4, 1.0, 0.9),
    "muloco_416M_K8_B512_lr0.0625": (0.0625, 1.25e-3, 0.9, 0.8),
    "diloco_416M_K8_B512_lr0.003906": (0.003906, 1.25e-3, 0.9, 0.9),
    "dp-muon_15B_B2048_lr0.011049": (0.011049, 4e-4, None, None),
    "dp-muon_3.1B_B8192_lr0.03125": (0.03125, 0.016, None, None),
}
PUBLISHED_15B = {  # PAPER 4.1: steps, weight decay
    "dp-adamw_15B_B1024": (145320, 2e-4),
    "muloco_15B_K1_B8192": (18165, 1.6e-3),
    "diloco_15B_K1_B512": (290640, 1e-4),
    "muloco_15B_K16_B4096": (36330, 5e-5),
    "diloco_15B_K16_B2048": (72660, 2.5e-5),
}
# PAPER 4.1, 0: outer learning rate and momentum; those of K = 2 and 4 are not published
OUTER = {("muloco", 1): (0.7, 0.6), ("muloco", 8): (0.9, 0.8), ("muloco", 16): (1.0, 0.9)}
OUTER |= {("diloco", 1): (0.7, 0.8), ("diloco", 8): (0.9, 0.9), ("diloco", 16): (1.0, 0.9)}
# PAPER 2.3: before the launchers double it
LOCAL_BATCH = {"150M": 32, "416M": 16, "914M": 16, "1.76B": 8, "3.1B": 4, "15B": 2}
# PAPER 2.1, by size and K: replicated, or sharded over 8; the published DP launcher at 3.1B shards over 16
SHARDS = {("150M", None): 1, ("416M", None): 1, ("3.1B", 0): 16}
SHARDS |= {(size, None): 8 for size in ("914M", "1.76B", "3.1B", "15B")}
# PAPER 2.1, 4.1: published at 416M and 3.1B, two sequences each at 15B; the others are ours
GPUS = {"150M": 8, "416M": 8, "914M": 32, "1.76B": 64, "3.1B": 128}
# PAPER 2.3, 4.1
ON_THE_GRID = [float(f"{2 ** (-k / 2):.6f}") for k in range(30)]
OFF_THE_GRID = [("416M", 0.04728708), ("416M", 0.00948683)]
SCRIPTS = (
    *("dp-muon_3.1B_B8192_lr0.03125", "muloco_3.1B_K16_B2048_lr0.015625", "muloco_15B_K16_B4096_lr0.007812"),
    "diloco_416M_K8_B512_lr0.003906_statistical_feedback_bits4",
)


@cache
def whole_paper() -> Expansion:
    return jobs_of("whole_paper.py")


def jobs_of(file: str) -> Expansion:
    return expand(load_sweep(JOBS / file), profile=PROFILE)


@pytest.mark.parametrize("batch", STEPS)
def test_steps_and_weight_decay_follow_from_size_and_batch_as_in_the_papers_tables(batch: int) -> None:
    for index, (size, steps) in enumerate(zip(SIZES, STEPS[batch], strict=True)):
        for optimizer, decays in DECAYS.items():
            for workers in (1, 16):
                config = Config()
                config.model.flavor, config.optimizer.name = size, optimizer
                config.training.global_batch_size, config.training.local_batch_size = batch, 1
                config.fault_tolerance.group_size = workers
                found = resolve(config)
                assert steps is None or found.training.steps == steps
                assert found.optimizer.weight_decay == pytest.approx(decays[index] * batch / workers / 512)


def test_every_method_size_and_number_of_workers_is_there_once_and_none_is_refused() -> None:
    found = whole_paper()
    assert not found.refused and all(theirs == ours for theirs, ours in found.merged)
    names = [job.name for job in found.jobs]
    assert len(set(names)) == len(names)
    main = [
        job.name
        for file in ("ddp_baselines_h100.py", "diloco_muloco_no-compression_h100.py", "15B.py")
        for job in jobs_of(file).jobs
    ]
    for size in SIZES[:-1]:
        for method in ("muloco", "diloco"):
            for workers in (1, 2, 4, 8, 16):
                assert sum(name.startswith(f"{method}_{size}_K{workers}_") for name in main) == 1
        for method in ("dp-muon", "dp-adamw"):
            assert sum(name.startswith(f"{method}_{size}_") for name in main) >= 3
    assert sum("_15B_" in name for name in main) == 6
    assert set(main) <= set(names)


def test_published_hyperparameters_are_taken_as_they_are() -> None:
    jobs = {job.name: job for job in whole_paper().jobs}
    for name, (lr, decay, outer_lr, momentum) in PUBLISHED.items():
        config = jobs[name].resolved
        assert config.optimizer.lr == lr and config.optimizer.weight_decay == pytest.approx(decay)
        if outer_lr is not None:
            assert (config.outer_optimizer.lr, config.outer_optimizer.momentum) == (outer_lr, momentum)
        assert config.lr_scheduler.warmup_steps == 500 and config.validation.sequences == 1024
    for prefix, (steps, decay) in PUBLISHED_15B.items():
        (config,) = (job.resolved for name, job in jobs.items() if name.startswith(prefix))
        assert config.training.steps == steps and config.optimizer.weight_decay == pytest.approx(decay)


def test_every_value_that_is_not_derived_says_where_it_comes_from() -> None:
    for job in whole_paper().jobs:
        chosen = {"optimizer.lr", "training.local_batch_size"}
        if job.resolved.fault_tolerance.semi_sync_method != "none":
            chosen |= {"outer_optimizer.lr", "outer_optimizer.momentum"}
        assert chosen <= set(job.origins)
        kinds = {origin.split(":")[0] for origin in job.origins.values()}
        assert kinds <= {"published", "interpolated", "grid", "rule"}


def test_compressed_runs_are_those_of_the_figures() -> None:
    """PAPER 5.8, 11: quantizers with the mean encoded again, top-k with the exact mean; each with and without error
    feedback, in which the outer rate acts twice on what is compressed."""
    jobs = [job for job in jobs_of("inner_sweep_distributed_quantized_topk.py").jobs]
    found = {"muloco": [], "diloco": []}
    for job in jobs:
        chosen = job.resolved.compression
        assert (job.resolved.workers, job.resolved.training.global_batch_size, job.nodes) == (8, 512, 1)
        if chosen.kind == "none":
            continue
        assert job.resolved.training.local_batch_size == 16 and chosen.skip_norms and not chosen.skip_embeddings
        assert (chosen.error_decay, chosen.error_alpha) == (0.9, 1.0)
        assert chosen.error_gain == (0.9 if chosen.error_feedback else 1.0) and job.resolved.outer_optimizer.lr == 0.9
        size = chosen.fraction if chosen.kind == "topk" else chosen.bits
        details = chosen.values if chosen.kind == "topk" else chosen.granularity
        found[job.name.split("_")[0]].append((chosen.kind, size, details, chosen.reduce, chosen.error_feedback))
    expected = {
        (*codec, feedback)
        for feedback in (False, True)
        for codec in (
            *(("statistical", bits, "tensor", "requantize") for bits in (2, 4, 8)),
            *(("linear", bits, "row", "requantize") for bits in (2, 4, 8)),
            *(("topk", kept, "fp32", "gather") for kept in (0.005, 0.01, 0.02, 0.025, 0.05, 0.1, 0.25, 0.5)),
        )
    }
    for runs in found.values():
        assert len(runs) == len(expected) and set(runs) == expected
    assert len(jobs) == 2 * (len(expected) + 1)


@pytest.mark.parametrize(
    ("method", "momentum", "rates", "local_batch"),
    [("muloco", 0.8, (0.04728708, 0.02236068, 0.01057371), 32), ("diloco", 0.9, (0.003, 0.001687, 0.00094868), 64)],
)
def test_streaming_runs_are_those_of_the_launcher(method: str, momentum: float, rates, local_batch: int) -> None:
    """PAPER 3.5, 5.9, 11."""
    named = {job.name: job.resolved for job in jobs_of("inner_sweep_distributed_quantized_streaming.py").jobs}
    streaming = [config for name, config in named.items() if name.startswith(f"{method}-streaming")]
    assert all(config.fault_tolerance.num_fragments == 3 for config in streaming)
    polar = "polar_express" if method == "muloco" else "muloco"
    assert {config.optimizer.orthogonalization for config in streaming} == {polar}
    plain = [config for config in streaming if config.compression.kind == "none"]
    assert [config.outer_optimizer.momentum for config in plain] == [momentum] and plain[0].training.steps == 8160
    compressed = [config for config in streaming if config.compression.kind != "none"]
    assert len(compressed) == 18
    grid = {(config.optimizer.lr, config.outer_optimizer.lr, config.compression.bits) for config in compressed}
    assert grid == {(lr, outer_lr, bits) for lr in rates for outer_lr in (0.9, 0.8) for bits in (2, 4, 8)}
    for config in compressed:
        assert (config.optimizer.weight_decay, config.outer_optimizer.momentum) == (1e-4, 0.9)
        assert (config.lr_scheduler.warmup_steps, config.training.steps, config.validation.freq) == (300, 7953, 30)
        assert (config.workers, config.training.global_batch_size) == (8, 512)
        assert config.training.local_batch_size == local_batch
        chosen = config.compression
        assert (chosen.kind, chosen.granularity, chosen.reduce) == ("statistical", "row", "requantize")
        assert chosen.error_feedback and chosen.skip_norms and chosen.skip_embeddings
        assert (chosen.error_decay, chosen.error_gain) == (0.9, config.outer_optimizer.lr)


def test_every_job_is_as_the_papers_tables_say() -> None:
    """Setting by setting, from PAPER 2.2 to 2.4, 3.1, 3.2, 3.5 and 4.1; none of it is taken from the model map."""
    jobs = [job for job in whole_paper().jobs if "-compressed_" not in job.name]
    assert len(jobs) > 400
    for job in jobs:
        method, size, *rest = job.name.split("_")
        config, optimizer = job.resolved, "Muon" if "mu" in method else "AdamW"
        workers = int(rest[0][1:]) if rest[0].startswith("K") else 0
        batch, k = config.training.global_batch_size, max(1, workers)
        ranks = config.ranks_per_worker
        outer = OUTER.get((method[:6], workers), (config.outer_optimizer.lr, config.outer_optimizer.momentum))
        share = batch // k // ranks
        expected = {
            "model.flavor": flavor(size).name,
            "training.seq_len": 2048,
            "training.steps": STEPS[batch][SIZES.index(size)],
            "training.max_norm": 1.0,
            "training.precision": "autocast" if size in ("150M", "416M") else "bfloat16",
            "data.predict_bos": True,
            "training.local_batch_size": min(
                share, LOCAL_BATCH[size] * (1 if config.compression.kind != "none" else 2)
            ),
            "optimizer.name": optimizer,
            "optimizer.weight_decay": pytest.approx(DECAYS[optimizer][SIZES.index(size)] * batch / k / 512),
            "optimizer.beta1": 0.9,
            "optimizer.beta2": 0.99,
            "optimizer.eps": 1e-8,
            "optimizer.mu": 0.9,
            "optimizer.nesterov": False,
            "optimizer.cautious_weight_decay": False,
            "optimizer.adjust_lr": "spectral_norm",
            "optimizer.orthogonalization": "polar_express" if method == "muloco-streaming" else "muloco",
            "lr_scheduler.warmup_steps": 500,
            "lr_scheduler.min_lr_factor": 0.1,
            "fault_tolerance.semi_sync_method": "diloco" if workers else "none",
            "fault_tolerance.group_size": k,
            "fault_tolerance.sync_steps": next((int(part[1:]) for part in rest if part[0] == "H"), 30),
            "fault_tolerance.num_fragments": 3 if "streaming" in method else 1,
            "fault_tolerance.fragment_sync_delay": 0,
            "fault_tolerance.fragment_update_alpha": 0.0,
            "outer_optimizer.class_name": "sgd",
            "outer_optimizer.nesterov": True,
            "outer_optimizer.schedule": "constant",
            "outer_optimizer.lr": outer[0],
            "outer_optimizer.momentum": outer[1],
            "validation.freq": 15,
            "validation.sequences": 1024,
            "run.seed": 42,
            "compile.enable": True,
            "parallelism.data_parallel_shard_degree": SHARDS.get((size, workers), SHARDS[size, None]),
        }
        fields = flatten(config)
        assert {name: fields[name] for name in expected} == expected, job.name
        least = k * expected["parallelism.data_parallel_shard_degree"]
        assert ranks * k == max(least, GPUS.get(size, batch // 2)), job.name
        assert config.optimizer.lr in ON_THE_GRID or (size, config.optimizer.lr) in OFF_THE_GRID, job.name
        if method == "muloco" and workers == 1 and "_lr" in job.name and not job.name.startswith("muloco_15B"):
            assert 0.0078 < config.optimizer.lr <= 0.125, "two steps of the grid around .016 to .063 (PAPER 4.2)"
        if (size, method, workers) == ("15B", "muloco", 1):
            assert 0.0156 <= config.optimizer.lr <= 0.063


def test_the_papers_15b_runs_take_the_hours_of_its_figure() -> None:
    """PAPER 6.1: at 6400 Gbit/s, the time of compute and of communication with two sequences a GPU in each run."""
    hours = {"dp-muon": 20.8, "dp-adamw": 40.9, "muloco_15B_K1_": 5.2, "diloco_15B_K1_": 81.6}
    hours |= {"muloco_15B_K16_": 9.8, "diloco_15B_K16_": 19.4}
    jobs = jobs_of("15B.py").jobs
    for prefix, expected in hours.items():
        (config,) = (job.resolved for job in jobs if job.name.startswith(prefix))
        gpus = config.workers * config.ranks_per_worker
        assert gpus * 2 == config.training.global_batch_size, prefix
        # 4096 tokens a GPU take .973 s; 16 bits a parameter pass at every step, or with several workers every 30
        often = 30 if config.workers > 1 else 1
        seconds = config.training.steps * (0.973 + 15.229e9 * 16 / 6400e9 / often)
        assert seconds / 3600 == pytest.approx(expected, rel=0.03), prefix


def test_the_model_map() -> None:
    # Of the grid in the paper's launchers
    assert {1.0, 0.0625, 0.015625, 0.011049, 0.007812, 0.003906, 0.001381, 0.000691, 4.3e-5} <= set(model_map.LR_GRID)
    assert len(model_map.LR_GRID) == 30
    # K = 1: from .063 at 150M down to .016 at 3.1B (PAPER 4.2)
    rates = [model_map.best_lr("MuLoCo", size, 1).value for size in SIZES[:-1]]
    assert rates == [0.0625, 0.044194, 0.022097, 0.015625, 0.015625]
    assert model_map.workers_on(nodes=16, per_node=1) == model_map.workers_on(nodes=2, per_node=8) == 16
    assert model_map.workers_on(nodes=4, per_node=1, nodes_per_worker=2) == 2
    for method, (k1, k2, k4, k8) in {"MuLoCo": (0.6, 0.7, 0.7, 0.8), "DiLoCo": (0.8, 0.8, 0.9, 0.9)}.items():
        momenta = [model_map.outer(method, k)["outer_optimizer.momentum"].value for k in (1, 2, 4, 8)]
        assert momenta == [k1, k2, k4, k8]


def test_all_jobs_as_listed() -> None:
    lines = ["\t".join(COLUMNS), *("\t".join(row(job)) for job in whole_paper().jobs)]
    _compare("whole_paper.tsv", "\n".join(lines) + "\n")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(name: str) -> None:
    (job,) = (job for job in whole_paper().jobs if job.name == name)
    text = job_script(job, PROFILE)
    _compare(f"{name}.sh", text.replace(str(CHECKOUT), "/muloco"))


def test_a_sweep_is_run_by_its_file_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(JOBS / "15B.py"), "--folder", "here", "--run.outputs", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "here").glob("*_15B_*.sh"))) == 6 and "6 scripts" in done.stdout


def _compare(name: str, text: str) -> None:
    """Against a file under golden/, which UPDATE_GOLDEN=1 in the environment writes: then look at what has changed."""
    golden = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
