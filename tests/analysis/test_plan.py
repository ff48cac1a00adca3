"""Plans: the paper's memory and hours by configs, bytes by the codecs, and the command."""

import dataclasses
import subprocess
import sys
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
import torch

from muloco.analysis import published
from muloco.analysis.plan import GPUS, fastest, plan
from muloco.analysis.plan_table import plan_tables, plot_plans
from muloco.cli import main
from muloco.console import open_console
from muloco.errors import UserError
from muloco.model import build
from muloco.model.flavors import flavor
from muloco.optim import Muon
from muloco.outer import OuterLoop, WorkerIdentity
from muloco.outer.in_process import InProcessGroup
from muloco.outer.loop.memory import sync_words
from muloco.resolve import resolve
from muloco.settings.config import Config
from muloco.settings.load import CHECKOUT, load_config
from muloco.settings.outer import OuterOptimizer
from muloco.training.optimizers import inner_optimizers
from muloco.training.outer import build_compression, build_outer_optimizer

N = flavor("15B").parameters


def paper(method: str, **fields) -> Config:
    """A run of the paper at 15B: one rank a worker, whose number of GPUs the test gives."""
    config = load_config("config/diloco/2x_4gpu_muloco.py")
    config.model.flavor, config.parallelism.data_parallel_replicate_degree = "15B", 1
    config.training.local_batch_size = 1
    config.optimizer.name = "Muon" if "Mu" in method else "AdamW"
    config.fault_tolerance.group_size = int(method.partition("K=")[2] or 1)
    if method.startswith("DP"):
        config.fault_tolerance.semi_sync_method = "none"
    for name, value in fields.items():
        section, field = name.split("__")
        setattr(getattr(config, section), field, value)
    return resolve(config)


@pytest.mark.parametrize(
    ("method", "gigabytes"), [("DP AdamW", 243.7), ("DP Muon", 187.5), ("DiLoCo K=1", 365.5), ("MuLoCo K=1", 309.3)]
)
def test_the_papers_memory(method: str, gigabytes: float) -> None:
    assert plan(paper(method)).memory.state / 1e9 == pytest.approx(gigabytes, abs=0.1)


@pytest.mark.parametrize(("reduce", "words"), [("gather", 1), ("reselect", 1 + 1 / 16)])
def test_error_feedback_adds_residuals(reduce: str, words: float) -> None:
    """Residuals of what a worker sends, and of its share of the means where these are encoded again."""
    compressed = {"compression__kind": "linear", "compression__bits": 4, "compression__reduce": reduce}
    without, with_ = (plan(paper("MuLoCo K=16", **compressed, compression__error_feedback=on)) for on in (False, True))
    assert with_.memory.state - without.memory.state == pytest.approx(4 * N * words, abs=1)


STREAMED = {"fault_tolerance__num_fragments": 3, "fault_tolerance__fragment_sync_delay": 5}


@pytest.mark.parametrize(
    ("method", "fields", "words"),
    [
        ("DP Muon", {}, 0),
        ("MuLoCo K=1", {}, 1),  # the pseudogradient, as CUDA graphs keep the gradients
        ("MuLoCo K=2", {}, 1),
        ("MuLoCo K=2", {"training__disable_cuda_graphs": True}, 0),  # in place of the gradients
        ("MuLoCo K=2", STREAMED, 2 / 3),  # pseudogradient and mean of one fragment of three, beside inner steps
    ],
)
def test_the_peak_of_a_sync(method: str, fields: dict, words: float) -> None:
    planned = plan(paper(method, **fields))
    assert planned.memory.peak - planned.memory.state == pytest.approx(4 * N * words, abs=1)
    assert (planned.state_per_gpu, planned.bytes_per_gpu) == (planned.memory.state, planned.memory.peak)


@pytest.mark.parametrize("delay", [0, 2])
def test_the_peak_of_a_sync_follows_the_config(delay: int) -> None:
    compressed = {"compression__kind": "linear", "compression__error_feedback": True}
    streamed = {"fault_tolerance__num_fragments": 2, "fault_tolerance__fragment_sync_delay": delay}
    here = {"fault_tolerance__transport": "in_process"}
    known = {"workers": 4, "sync_delay": delay, "compressed": True, "error_feedback": True, "fragments": 2}
    for fields, in_process in (({}, False), (here, True)):
        planned = plan(paper("MuLoCo K=4", **compressed, **streamed, **fields))
        words = sync_words(**known, in_process=in_process, gradients_stay=not in_process)
        assert planned.memory.syncing == pytest.approx(4 * N * words, abs=1)


def test_workers_in_one_process_share_a_gpu_and_send_nothing() -> None:
    apart, together = (
        plan(paper("MuLoCo K=4", model__flavor="150M", fault_tolerance__transport=transport))
        for transport in ("torchft", "in_process")
    )
    assert (apart.gpus, together.gpus) == (4, 1)
    assert together.state_per_gpu == 4 * apart.state_per_gpu
    assert apart.exchange_bytes > 0 == together.exchange_bytes
    assert together.at(10).total == pytest.approx(4 * apart.at(10).compute)


def test_what_is_offloaded_is_in_host_memory() -> None:
    sharded = {"parallelism__data_parallel_shard_degree": 4}
    on_gpu, offloaded = (
        plan(paper("MuLoCo K=2", **sharded, outer_optimizer__offload=offload)) for offload in (False, True)
    )
    assert on_gpu.host_bytes_per_gpu == 0 and offloaded.host_bytes_per_gpu == 2 * 4 * N / 4
    assert on_gpu.bytes_per_gpu - offloaded.bytes_per_gpu == offloaded.host_bytes_per_gpu


@pytest.mark.parametrize(
    ("method", "validated"),
    [
        # the first anchor on all 1024 sequences; then in each of 100 windows an eighth for the anchor and one for the
        # worker's own weights
        ("MuLoCo K=8", 1024 + 100 * 2 * 128),
        # every 15 steps, and before the first
        ("DP Muon", (1 + 200) * 1024),
    ],
)
def test_the_share_of_validation(method: str, validated: int) -> None:
    """A run has 3000 steps of 512 sequences; each costs three forward passes in training, and one in validation."""
    fields = {"training__global_batch_size": 512, "training__steps": 3000, "validation__freq": 15}
    config = paper(method, **fields, validation__sequences=1024)
    trained = 3 * 3000 * 512 // config.workers
    share = plan(config).validation_share
    assert share == pytest.approx(validated / (validated + trained)) and 0.04 < share < 0.05


@pytest.mark.parametrize("sharded", [1, 8])
def test_a_gpu_holds_its_share(sharded: int) -> None:
    planned = plan(paper("DP AdamW", parallelism__data_parallel_shard_degree=sharded), gpus=sharded)
    assert planned.bytes_per_gpu == planned.memory.peak / sharded and planned.fits == (sharded == 8)


@pytest.mark.parametrize("method", published.WALL_CLOCK)
@pytest.mark.parametrize("gbit", [10, 6400])
def test_the_papers_hours(method: str, gbit: int) -> None:
    """4096 tokens a GPU and step. With K = 16 the paper charges 16 bits a parameter and sync, once: half of bf16 both
    ways."""
    steps = published.WALL_CLOCK_STEPS[method]
    batch = round(flavor("15B").token_budget / steps / 2048)
    codec = {"compression__kind": "bf16"} if "K=16" in method else {}
    planned = plan(paper(method, training__global_batch_size=batch, training__steps=steps, **codec), gpus=batch // 2)
    time = planned.at(gbit)
    once = planned.exchange_bytes / (2 * N) if "K=16" in method else 1.0
    assert once == pytest.approx(1.0 if "K=16" not in method else 2 * 15 / 16, rel=1e-3)
    assert (time.compute + time.communication / once) / 3600 == pytest.approx(
        published.WALL_CLOCK[method][gbit], rel=0.04
    )


@pytest.mark.parametrize(
    ("codec", "share"), [({}, 1.0), ({"kind": "linear", "bits": 4}, 1 / 8), ({"kind": "topk", "fraction": 0.01}, None)]
)
@pytest.mark.parametrize("workers", [2, 8])
def test_bytes_are_those_of_the_codec(codec: dict, share: float | None, workers: int) -> None:
    fields = {f"compression__{name}": value for name, value in codec.items()}
    sent = plan(paper(f"MuLoCo K={workers}", model__flavor="416M", **fields)).exchange_bytes
    full = 2 * (workers - 1) / workers * 4 * flavor("416M").parameters
    if share is None:
        assert 0.005 * full < sent < 0.02 * full
    else:
        assert sent == pytest.approx(share * full, rel=0.02)


def test_the_state_of_a_worker_is_what_is_planned() -> None:
    """Every tensor that model, inner optimizer and outer loop keep after a window, counted."""
    config = resolve(load_config("config/laptop/muloco.py"))
    model = build(config.model.flavor, device="cpu")
    params = dict(model.named_parameters())
    matrices = [p for n, p in params.items() if n.startswith("layers.") and p.ndim == 2]
    others = [p for p in params.values() if all(p is not matrix for matrix in matrices)]
    inner = Muon([{"params": matrices}, {"params": others, "algorithm": "adamw"}], lr=0.01)
    loop = OuterLoop(
        params,
        partial(build_outer_optimizer, OuterOptimizer(lr=0.7, momentum=0.6)),
        InProcessGroup(1).transport(0),
        identity=WorkerIdentity(),
        sync_interval=1,
    )
    loop.start(0)
    for param in params.values():
        param.grad = torch.ones_like(param)
    inner.step()
    loop.after_inner_step(1, last=True)
    kept = [*params.values(), *(p.grad for p in params.values())]
    kept += [t for state in inner.state.values() for t in state.values() if isinstance(t, torch.Tensor) and t.ndim]
    kept += [t for tensors in loop.snapshot(own=False).tensors.values() for t in tensors.values() if t.ndim]
    scalars = sum(t.numel() for state in inner.state.values() for t in state.values() if isinstance(t, torch.Tensor))
    assert scalars  # the numbers of steps, which the plan leaves out
    assert sum(4 * t.numel() for t in kept) == plan(config).memory.state


@pytest.mark.parametrize("reduce", ["reselect", "gather"])
@pytest.mark.parametrize("kind", ["powersgd", "linear"])
def test_the_state_of_codecs_is_what_is_planned(kind: str, reduce: str) -> None:
    """The warm start of PowerSGD after a sync, counted; other codecs keep nothing."""
    alone = ["--model.flavor", "tiny", "--fault_tolerance.group_size", "1"]
    words = [*alone, "--compression.kind", kind, "--compression.reduce", reduce]
    config, dense = (resolve(load_config("config/laptop/muloco.py", given)) for given in (words, alone))
    params = dict(build(config.model.flavor, device="cpu").named_parameters())
    compression = build_compression(config.compression, params, tables=flavor(config.model.flavor).tables)
    loop = OuterLoop(
        params,
        partial(build_outer_optimizer, OuterOptimizer(lr=0.7, momentum=0.6)),
        InProcessGroup(1).transport(0),
        identity=WorkerIdentity(),
        sync_interval=1,
        compression=compression,
    )
    loop.start(0)
    loop.after_inner_step(1, last=True)
    kept = [torch.load(BytesIO(states), weights_only=True) for states in loop.snapshot(own=True).codecs.values()]
    counted = sum(4 * state.numel() for ends in kept for states in ends.values() for state in states.values())
    planned = plan(config).memory
    assert planned.codecs == counted and (counted > 0) == (kind == "powersgd")
    assert planned.state - counted == plan(dense).memory.state


@pytest.mark.parametrize(
    "words",
    [
        ["--optimizer.embedding.rule", "lion"],
        ["--optimizer.matrix.rule", "lion", "--optimizer.scalar.rule", "lion"],
        ["--optimizer.name", "AdamW", "--optimizer.matrix.rule", "muon"],
        ["--optimizer.name", "GPA", "--optimizer.head.rule", "lion"],
        ["--optimizer.name", "SGD"],
        ["--optimizer.name", "SGD", "--optimizer.mu", "0"],
    ],
)
def test_the_state_of_every_rule_is_what_is_planned(words: list[str]) -> None:
    """The planned bytes, by the tensors that the optimizer that the config describes keeps after a step."""
    chosen = load_config("config/laptop/muloco.py", ["--model.flavor", "tiny", *words])
    if chosen.optimizer.name == "GPA":
        chosen.outer_optimizer = OuterOptimizer()
    config = resolve(chosen)
    model = build(config.model.flavor, device="cpu")
    inner = inner_optimizers(config.optimizer, flavor(config.model.flavor).record.roles).build(model_parts=[model])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    inner.step()
    kept = [
        tensor
        for optimizer in inner
        for state in optimizer.state.values()
        for tensor in state.values()
        if isinstance(tensor, torch.Tensor) and tensor.ndim
    ]
    assert sum(4 * tensor.numel() for tensor in kept) == plan(config).memory.inner


def test_the_fastest_depends_on_the_link() -> None:
    """MuLoCo at K = 1 takes half as many steps as at K = 16, but sends at each of them."""
    plans = [
        plan(paper(f"MuLoCo K={k}", training__global_batch_size=b, training__steps=s), gpus=b // 2, name=f"K={k}")
        for k, b, s in ((1, 8192, 18165), (16, 4096, 36330))
    ]
    assert [fastest(plans, rate).name for rate in (10, 6400)] == ["K=16", "K=1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "H1000"}, "--gpu H1000 is not known; there are A100, H100"),
        ({"gpus": 0}, "--gpus must be at least 1"),
        ({"utilization": 1.5}, "--utilization must be above 0 and at most 1; got 1.5"),
        ({"utilization": 0.0}, "--utilization must be above 0 and at most 1; got 0"),
    ],
)
def test_what_cannot_be_planned_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(paper("DP Muon"), **options)
    assert GPUS["H100"].flops > 9e14


HELP = "try `muloco plan --help`"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--utilization", "0"], f"--utilization must be above 0 and at most 1; got 0; {HELP}"),
        (["--gpus", "0"], f"--gpus must be at least 1; got 0; {HELP}"),
        (["--gpus", "7"], "--gpus must be a multiple of 2, the worker processes x ranks (2 x 1) of muloco; got 7"),
        (["--gbit", "10", "0"], f"--gbit must be above 0; got 0; {HELP}"),
        (["--plot", "hours.jpgg"], "--plot must end in .png or .svg; got hours.jpgg"),
        (["--plot", "hours"], "--plot must end in .png or .svg; got hours"),
    ],
)
def test_the_command_refuses_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", "config/laptop/muloco.py", *words]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"muloco: {message}\n")


@pytest.mark.parametrize(("rates", "refused"), [((0.02, -1.0), "rates_lr-1"), ((-1.0,), "rates")])
def test_refused_points_of_a_sweep_are_listed(
    rates: tuple[float, ...], refused: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    points = [{"optimizer.lr": rate} for rate in rates]
    file, picture = tmp_path / "rates.py", tmp_path / "new" / "hours.svg"
    file.write_text(
        "from muloco.sweeps.sweep import Grid, Sweep\n\n\ndef sweep():\n"
        f"    return Sweep(Grid(name='rates', config='config/laptop/muloco.py', points={points}))\n"
    )
    assert main(["plan", str(file), "--plot", str(picture)]) == 1
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if line.startswith("refused: "))
    assert line == f"refused: {refused}: optimizer.lr must be above 0; got -1.0"
    assert ("Assumptions" in said) == picture.exists() == (len(rates) > 1)


def test_the_command(tmp_path) -> None:
    picture = tmp_path / "hours.png"
    command = [sys.executable, "-m", "muloco", "plan", "jobs/muloco_paper/ddp_baselines_h100.py"]
    run = subprocess.run(
        [*command, "--gbit", "10", "400", "--plot", str(picture)],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={"COLUMNS": "80", "PATH": "/usr/bin:/bin"},
    )
    assert run.returncode == 0, run.stderr
    assert max(map(len, run.stdout.splitlines())) <= 80 and "…" not in run.stdout
    assert "GPU-hours of " in run.stdout and "6 N FLOPs a token" in run.stdout and picture.exists()
    assert "% validation" in run.stdout


def test_a_plan_shows_the_peak_of_a_sync_and_the_share_of_validation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ["config/diloco/2x_4gpu_muloco_streaming.py", "--outer_optimizer.offload", "True"]
    words += ["--fault_tolerance.fragment_sync_delay", "5"]
    assert main(["plan", *words]) == 0
    planned = plan(resolve(load_config(words[0], words[1:])))
    state, peak, host = planned.state_per_gpu, planned.bytes_per_gpu, planned.host_bytes_per_gpu
    assert 0 < host < state < peak
    said = " ".join(capsys.readouterr().out.split())
    assert f"│ {state / 1e9:.1f} GB between syncs, {peak / 1e9:.1f} GB at most │" in said
    assert f"│ {host / 1e9:.1f} GB │" in said
    assert f"│ {100 * planned.validation_share:.1f} % of the computation" in said


@pytest.mark.parametrize(("amount", "said"), [(12_345e6, "12.3"), (160e6, "0.2"), (99e6, "0.099"), (5.8e6, "0.0058")])
def test_memory_of_small_models_is_not_zero(amount: float, said: str, capsys: pytest.CaptureFixture) -> None:
    planned = dataclasses.replace(plan(paper("DP Muon")), state_per_gpu=amount, bytes_per_gpu=amount, fits=True)
    open_console(width=80).print(plan_tables([planned], [10], hardware="H100", width=80)[0])
    assert f"│ {said} GB at all times │" in " ".join(capsys.readouterr().out.split())


def test_memory_that_no_sync_adds_to_is_one_figure(capsys: pytest.CaptureFixture) -> None:
    planned = plan(paper("DP Muon"), gpus=8)
    for fits, ending in ((True, ""), (False, ": too much")):
        (table,) = plan_tables([dataclasses.replace(planned, fits=fits)], [10], hardware="H100", width=80)[:1]
        open_console(width=80).print(table)
        text = f"{planned.bytes_per_gpu / 1e9:.1f} GB at all times{ending}"
        assert f"│ {text} │" in " ".join(capsys.readouterr().out.split())


def test_several_runs_at_80_columns_are_told_at_few_bandwidths_in_one_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for columns, rates in (("80", (10, 100, 1600)), ("200", (1, 10, 25, 100, 400, 1600, 6400))):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["plan", "jobs/muloco_paper/15B.py"]) == 0
        said = capsys.readouterr().out
        heads = [line for line in said.splitlines() if line.startswith("┃") and "Gbit/s" in line]
        assert [head.count("Gbit/s") for head in heads] == [len(rates)]
        assert all(f" {rate} Gbit/s " in heads[0] for rate in rates)
        assert said.count("114 GB every 30 steps") == 2


def test_curves_of_runs_with_different_gpus_tell_their_number(tmp_path: Path) -> None:
    small, large = (plan(paper("DP Muon"), gpus=gpus, name=str(gpus)) for gpus in (8, 4096))
    for plans, told in (([small, large], True), ([small], False)):
        picture = tmp_path / "hours.svg"
        plot_plans(plans, picture)
        assert ("8 (8 GPUs)" in picture.read_text()) == ("4096 (4,096 GPUs)" in picture.read_text()) == told
