"""Derived values against the paper's tables, and every refusal."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from muloco.errors import UserError
from muloco.model.flavors import flavor
from muloco.resolve import completed, resolution, resolve
from muloco.settings.compression import Compression
from muloco.settings.config import Config
from muloco.settings.fault_tolerance import FaultTolerance
from muloco.settings.fields import set_field
from muloco.settings.load import load_config
from muloco.settings.optimizer import Optimizer, Role
from muloco.settings.outer import OuterOptimizer
from muloco.settings.stored import from_dict, to_dict
from tests.papers_tables import DECAYS, SIZES, STEPS, UNTRAINED_STEPS

POINTS = [
    (size, batch, steps)
    for batch, row in STEPS.items()
    for size, steps in zip(SIZES, row, strict=True)
    if steps is not None
]

# two fragments of 150M's six layers
FIRST, REST = "tok_embeddings,layers.0", "layers.1,layers.2,layers.3,layers.4,layers.5,norm,lm_head"


def paper(flavor: str, batch: int, workers: int = 1, optimizer: str = "Muon") -> Config:
    config = Config()
    config.model.flavor = flavor
    config.training.global_batch_size = batch
    config.training.local_batch_size = 1
    config.fault_tolerance.group_size = workers
    config.optimizer.name = optimizer
    return config


@pytest.mark.parametrize("optimizer", ["Muon", "AdamW"])
@pytest.mark.parametrize("workers", [1, 16])
def test_every_point_of_the_papers_tables(workers: int, optimizer: str) -> None:
    """Prints the table (`pytest -s`); batches come in sequences of 2048 tokens."""
    sys.stdout.write(f"\n{optimizer}, K = {workers}\n{'size':>6} {'batch':>6} {'steps':>8} {'weight decay':>13}\n")
    for size, batch, steps in POINTS:
        resolved = resolve(paper(size, batch, workers, optimizer))
        decay = DECAYS[optimizer][SIZES.index(size)] * batch / workers / 512
        assert resolved.training.steps == steps, (size, batch)
        assert resolved.optimizer.weight_decay == pytest.approx(decay), (size, batch)
        sys.stdout.write(f"{size:>6} {batch:>6} {steps:>8} {resolved.optimizer.weight_decay:>13.3g}\n")


@pytest.mark.parametrize(("size", "steps"), UNTRAINED_STEPS.items())
def test_steps_of_sizes_that_the_paper_did_not_train(size: str, steps: int) -> None:
    assert resolve(paper(size, 512)).training.steps == steps
    assert resolve(paper(size, 2048)).training.steps == steps // 4


@pytest.mark.parametrize(
    ("flavor", "batch", "workers", "optimizer", "decay"),
    [
        ("3.1B", 2048, 16, "Muon", 2.5e-4),  # PAPER 4.1
        ("3.1B", 1024, 16, "AdamW", 1.25e-4),
        ("3.1B", 8192, 1, "Muon", 0.016),
        ("416M", 512, 8, "Muon", 1.25e-3),
        ("416M", 512, 8, "AdamW", 1.25e-3),
        ("15B", 2048, 1, "Muon", 4e-4),
        ("15B", 1024, 1, "AdamW", 2e-4),
        ("15B", 4096, 16, "Muon", 5e-5),
        ("150M", 512, 1, "AdamW", 1e-3),
    ],
)
def test_weight_decay_is_the_papers(flavor, batch, workers, optimizer, decay) -> None:
    assert resolve(paper(flavor, batch, workers, optimizer)).optimizer.weight_decay == pytest.approx(decay)


def test_token_budget_and_values_set_by_hand_stay() -> None:
    config = paper("150M", 64)
    config.training.tokens = 10 * 64 * 2048 + 5
    config.optimizer.weight_decay = 0.0
    config.run.name = "mine"
    resolved = resolve(config)
    assert (resolved.training.steps, resolved.training.tokens) == (10, 10 * 64 * 2048)
    assert resolved.optimizer.weight_decay == 0.0 and resolved.run.name == "mine"
    assert config.training.steps is None, "what the user chose is left alone"


def test_resolving_twice_changes_nothing() -> None:
    once = resolve(paper("416M", 512, 8), config_name="twice")
    assert once.run.name.startswith("twice-")
    assert resolve(once) == once


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("model", "flavor", "151M", "did you mean 150M"),
        ("training", "seq_len", 0, "training.seq_len must be at least 1; got 0"),
        ("training", "local_batch_size", 3, "2 workers x 1 data-parallel rank x local_batch_size 3 = 6"),
        ("training", "max_norm", 0.0, "training.max_norm must be above 0; got 0.0"),
        ("training", "tokens", 7, "at 1048576 tokens a step, 4 steps are 4194304 tokens; give only one"),
        ("optimizer", "lr", -1.0, "optimizer.lr must be above 0"),
        ("optimizer", "mu", 1.0, "optimizer.mu must be from 0 to below 1; got 1.0"),
        ("lr_scheduler", "min_lr_factor", 1.5, "min_lr_factor must be from 0 to 1; got 1.5"),
        ("lr_scheduler", "warmup_steps", -1, "warmup_steps must be 0 or more"),
        ("fault_tolerance", "replica_id", 2, "replica_id must be from 0 to group_size - 1 = 1; got 2"),
        ("fault_tolerance", "semi_sync_method", "none", "none never syncs, but there are 2 workers"),
        ("fault_tolerance", "sync_steps", 0, "sync_steps must be at least 1"),
        ("outer_optimizer", "momentum", -0.1, "outer_optimizer.momentum must be from 0 to below 1"),
        ("data", "vocabulary", 200_000, "must be from 258 to the 128256 of flavor 150M; got 200000"),
        ("validation", "sequences", 0, "validation.sequences must be at least 1; got 0"),
        ("run", "name", "a/b", "run.name must be the name of a folder: up to 200 letters"),
    ],
)
def test_impossible_values_are_refused_in_one_line(section, field, value, message) -> None:
    config = paper("150M", 512, 2)
    config.training.local_batch_size = 16
    config.training.steps = 4
    setattr(getattr(config, section), field, value)
    with pytest.raises(UserError) as refusal:
        resolve(config)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("flavor", "seq_len", "degree", "message"),
    [
        ("150M", 2048, 0, "parallelism.tensor_parallel_degree must be at least 1; got 0"),
        ("150M", 2048, 3, "parallelism.tensor_parallel_degree 3 must divide the 4 heads of flavor 150M"),
        ("laptop", 2048, 4, "parallelism.tensor_parallel_degree 4 must divide the 2 heads of flavor laptop"),
        ("3.1B", 2050, 5, "5 must divide the 128256 entries of its vocabulary (flavor 3.1B)"),
        ("150M", 2047, 2, "2 must divide the 2047 tokens of training.seq_len"),
    ],
)
def test_tensor_parallel_degrees_that_do_not_divide_are_refused(flavor, seq_len, degree, message) -> None:
    config = paper(flavor, 512)
    config.training.seq_len, config.parallelism.tensor_parallel_degree = seq_len, degree
    with pytest.raises(UserError) as refusal:
        resolve(config)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallelism.pipeline_parallel_degree": 7}, "7 is more than the 6 layers of flavor 150M"),
        ({"fault_tolerance.module_fqns_per_model_fragment": (FIRST, REST)}, "use fault_tolerance.num_fragments"),
        ({"optimizer.name": "GPA"}, "optimizer.name GPA needs parallelism.pipeline_parallel_degree 1"),
        ({"evaluation.tasks": ("embedded",)}, "evaluation.tasks needs parallelism.pipeline_parallel_degree 1"),
    ],
)
def test_what_a_pipeline_cannot_be_combined_with_is_refused(changes: dict[str, Any], message: str) -> None:
    config = paper("150M", 512)
    config.parallelism.pipeline_parallel_degree = 2
    for name, value in changes.items():
        set_field(config, name, value)
    with pytest.raises(UserError) as refusal:
        resolve(config)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (Optimizer(head=Role(lr_factor=0.0)), "optimizer.head.lr_factor must be above 0; got 0.0"),
        (Optimizer(scalar=Role(weight_decay_factor=-1.0)), "optimizer.scalar.weight_decay_factor must be 0 or more"),
        (Optimizer(orthogonalization_steps=0), "optimizer.orthogonalization_steps must be at least 1; got 0"),
        (Optimizer(scalar=Role(rule="muon")), "optimizer.scalar.rule muon: norms are vectors"),
        (Optimizer(name="SGD", matrix=Role(rule="lion")), "SGD steps all parameters alike .* optimizer.matrix"),
        (Optimizer(name="SGD", head=Role(lr_factor=2.0)), "SGD steps all parameters alike .* optimizer.head"),
        (Optimizer(name="SGD", cautious_weight_decay=True), "not know optimizer.cautious_weight_decay; choose"),
    ],
)
def test_rules_that_make_no_sense_are_refused(optimizer: Optimizer, message: str) -> None:
    config = paper("150M", 512)
    config.optimizer = optimizer
    with pytest.raises(UserError, match=message) as refusal:
        resolve(config)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("ft", "message"),
    [
        ({"num_fragments": 0}, "fault_tolerance.num_fragments must be at least 1; got 0"),
        ({"num_fragments": 7, "sync_steps": 6}, "6 inner steps are too few for 7 fragments: one step each"),
        ({"num_fragments": 10}, "fault_tolerance: 9 modules make 1 to 9 fragments, not 10"),
        # 10 steps in 3 fragments are due at 3, 6 and 10
        ({"num_fragments": 3, "sync_steps": 10, "fragment_sync_delay": 3}, "must be from 0 to 2, below the 3 inner"),
        (
            {"num_fragments": 3, "sync_steps": 10, "fragment_sync_delay": -1},
            "fragment_sync_delay must be 0 or more; got -1",
        ),
        ({"fragment_sync_delay": 30}, "the delay must be from 0 to 29, below the 30 inner steps .*; got 30"),
        ({"fragment_update_alpha": 1.1}, "fault_tolerance.fragment_update_alpha must be from 0 to 1; got 1.1"),
        ({"fragment_update_alpha": -0.1}, "fault_tolerance.fragment_update_alpha must be from 0 to 1; got -0.1"),
        (
            {"module_fqns_per_model_fragment": (FIRST, REST), "num_fragments": 3},
            "fault_tolerance.num_fragments is 3, module_fqns_per_model_fragment has 2",
        ),
        (
            {"module_fqns_per_model_fragment": (FIRST, f"{REST},layers.0")},
            "layers.0.weight is in fragment 0 and again, by 'layers.0', in 1",
        ),
        (
            {"module_fqns_per_model_fragment": (FIRST, REST.removesuffix(",norm,lm_head"))},
            "fault_tolerance: 2 parameters are in no fragment, the first is norm.weight",
        ),
        (
            {"module_fqns_per_model_fragment": (FIRST, REST.replace("lm_head", "lm_haed"))},
            "fragment 1 names 'lm_haed', which holds no parameter; did you mean lm_head?",
        ),
        (
            {"module_fqns_per_model_fragment": (FIRST, REST.replace("lm_head", "output"))},
            "fragment 1 names 'output', which holds no parameter; there are layers.0, .*, norm, tok_embeddings",
        ),
        ({"module_fqns_per_model_fragment": ()}, "module_fqns_per_model_fragment names no fragment"),
        ({"min_replica_size": 3}, "fault_tolerance.min_replica_size 3 is more than the group_size 2"),
        ({"min_replica_size": 0}, "fault_tolerance.min_replica_size must be at least 1; got 0"),
        ({"transport": "in_process", "process_group": "nccl"}, "with transport in_process leave it auto"),
        (
            {"exchange_timeout_seconds": 0},
            "exchange_timeout_seconds must be above 0 and at most 31536000; got 0",
        ),
        (
            {"heartbeat_timeout_seconds": -1},
            "heartbeat_timeout_seconds must be above 0 and at most 31536000; got -1",
        ),
    ],
)
def test_workers_and_fragments_that_cannot_be_are_refused(ft, message) -> None:
    config = paper("150M", 512)
    config.fault_tolerance = FaultTolerance(group_size=2, **ft)
    with pytest.raises(UserError, match=message) as refusal:
        resolve(config)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "outer",
    [OuterOptimizer(class_name="adamw"), OuterOptimizer(lr=0.7), OuterOptimizer(momentum=0.9)],
)
def test_local_sgd_takes_no_other_outer_optimizer(outer: OuterOptimizer) -> None:
    config = paper("150M", 512, 2)
    config.fault_tolerance.semi_sync_method, config.outer_optimizer = "local_sgd", outer
    with pytest.raises(UserError, match=r"local_sgd averages .* is sgd with lr 1 and momentum 0; got") as refusal:
        resolve(config)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("outer", "message"),
    [
        ({"min_lr_factor": 1.5}, "outer_optimizer.min_lr_factor must be from 0 to 1; got 1.5"),
        ({"lr": 0.0}, "outer_optimizer.lr must be above 0; got 0.0"),
        ({"beta2": 1.0}, "outer_optimizer.beta2 must be from 0 to below 1; got 1.0"),
        ({"eps": 0.0}, "outer_optimizer.eps must be above 0; got 0.0"),
    ],
)
def test_outer_optimizers_that_cannot_step_are_refused(outer, message) -> None:
    config = paper("150M", 512, 2)
    config.outer_optimizer = OuterOptimizer(**outer)
    with pytest.raises(UserError, match=message):
        resolve(config)


@pytest.mark.parametrize(
    ("compression", "message"),
    [
        ({"kind": "statistical", "bits": 0}, "compression.bits must be from 1 to 8; got 0"),
        ({"kind": "lloyd_max", "bits": 9}, "compression.bits must be from 1 to 8; got 9"),
        ({"kind": "topk", "fraction": 0.0}, "compression.fraction must be above 0 and at most 1; got 0.0"),
        ({"kind": "topk", "fraction": 1.5}, "compression.fraction must be above 0 and at most 1; got 1.5"),
        ({"kind": "topk", "granularity": "row"}, "kind 'topk' takes no granularity, got 'row'; allowed for linear"),
        ({"kind": "topk", "values": "fp32", "bits": 4}, "kind 'topk' takes bits only with values linear"),
        ({"kind": "linear", "fraction": 0.1}, "kind 'linear' takes no fraction, got 0.1; allowed for topk"),
        ({"kind": "linear", "values": "bf16"}, "kind 'linear' takes no values"),
        ({"values": "bf16"}, "kind 'none' takes no values"),
        ({"bits": 4}, "kind 'none' takes no bits, got 4"),
        ({"kind": "bf16", "bits": 4}, "kind 'bf16' takes no bits, got 4"),
        ({"granularity": "row"}, "kind 'none' takes no granularity, got 'row'"),
        ({"kind": "linaer"}, "got 'linaer'; did you mean linear"),
        ({"error_feedback": True}, "error_feedback needs a lossy compression.kind; none is lossless"),
        ({"kind": "linear", "error_decay": 1.1}, "compression.error_decay must be from 0 to 1; got 1.1"),
        ({"kind": "linear", "error_gain": 0.0}, "compression.error_gain must be above 0; got 0.0"),
        ({"kind": "topk", "reduce": "requantize"}, "requantize is for quantizers: .* choose gather"),
        ({"kind": "linear", "error_alpha": -0.1}, "compression.error_alpha must be from 0 to 1; got -0.1"),
    ],
)
def test_compression_that_cannot_be_is_refused(compression: dict, message: str) -> None:
    config = paper("150M", 512, 2)
    config.compression = Compression(**compression)
    with pytest.raises(UserError, match=message) as refusal:
        resolve(config)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("compression", "derived"),
    [
        ({}, {}),
        ({"kind": "bf16", "error_feedback": True}, {}),
        ({"kind": "linear"}, {"bits": 4}),
        ({"kind": "lloyd_max", "bits": 3, "granularity": "row"}, {}),
        ({"kind": "topk"}, {"fraction": 0.1, "values": "fp32"}),
        ({"kind": "topk", "fraction": 0.01, "values": "lloyd_max"}, {"bits": 4}),
    ],
)
def test_compression_is_derived_where_it_is_left_open(compression: dict, derived: dict) -> None:
    config = paper("150M", 512, 2)
    config.compression = Compression(**compression)
    assert resolve(config).compression == Compression(**{**compression, **derived})


@pytest.mark.parametrize(
    ("name", "own", "rules"),
    [
        ("Muon", {}, ["muon", "adamw", "adamw", "muon", "adamw", "adamw"]),
        ("AdamW", {}, ["adamw"] * 6),
        ("GPA", {"matrix": "muon"}, ["muon"] + ["adamw"] * 5),
        ("SGD", {}, ["sgd"] * 6),
        ("Muon", {"embedding": "lion", "matrix": "adamw"}, ["adamw", "lion", "adamw", "muon", "adamw", "adamw"]),
    ],
)
def test_every_role_has_a_rule(name: str, own: dict[str, str], rules: list[str]) -> None:
    config = paper("150M", 512)
    config.optimizer.name = name
    for role, rule in own.items():
        config.optimizer.roles()[role].rule = rule
    found = resolution(config)
    assert [role.rule for role in found.config.optimizer.roles().values()] == rules
    derived = {field.split(".")[1] for field in found.derived if field.endswith(".rule")}
    assert derived == {"matrix", "embedding", "head", "router", "scalar", "other"} - own.keys()
    assert resolve(found.config) == found.config
    stored = from_dict(to_dict(found.config), where="config.json")
    assert completed(stored, where="config.json") == found.config
    muon = flavor("150M").muon_decay if rules[0] == "muon" else flavor("150M").adamw_decay
    assert found.config.optimizer.weight_decay == muon, "the paper's best for what steps the matrices"


def test_the_rules_follow_from_another_name(tmp_path: Path) -> None:
    """Also where a run's config.json, which names all rules, is the config of another run."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"resolved": to_dict(resolve(load_config("laptop/muloco")))}))
    resolved = resolve(load_config(str(file), ["--optimizer.name", "AdamW"]))
    assert resolved.optimizer.matrix.rule == "adamw"


@pytest.mark.parametrize(("interval", "mu_x"), [(16, 0.9934), (32, 0.9967), (64, 0.9984)])
def test_gpa_implies_its_method(interval: int, mu_x: float) -> None:
    """The published constants for each H (PAPER 3.6)."""
    config = paper("150M", 512, 2)
    config.optimizer.name, config.fault_tolerance.sync_steps = "GPA", interval
    resolved = resolve(config)
    assert resolved.fault_tolerance.semi_sync_method == "gpa" and resolved.syncs
    assert resolved.optimizer.mu_x == pytest.approx(mu_x, abs=1e-4) and resolved.optimizer.mu_y == 0.7
    assert (resolved.outer_optimizer.lr, resolved.outer_optimizer.momentum) == (1.0, 0.0)
    assert resolve(resolved) == resolved
    config.fault_tolerance.group_size = 1
    assert not resolve(config).syncs


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("GPA", {"semi_sync_method": "diloco"}, "go together; got GPA and diloco"),
        ("Muon", {"semi_sync_method": "gpa"}, "go together; got Muon and gpa"),
        ("Muon", {"mu_x": 0.5}, "belong to optimizer.name GPA; got Muon"),
        ("GPA", {"mu_y": 0.0}, "optimizer.mu_y must be above 0 and at most 1; got 0.0"),
        ("GPA", {"mu_x": 1.0}, "optimizer.mu_x must be from 0 to below 1; got 1.0"),
        ("GPA", {"lr": 0.5}, "semi_sync_method gpa averages the workers: .* got sgd, 0.5, None"),
    ],
)
def test_what_does_not_go_with_gpa_is_refused(name: str, chosen: dict, message: str) -> None:
    config = paper("150M", 512, 2)
    config.optimizer.name = name
    for field, value in chosen.items():
        section = {"semi_sync_method": config.fault_tolerance, "lr": config.outer_optimizer}.get(
            field, config.optimizer
        )
        setattr(section, field, value)
    with pytest.raises(UserError, match=message):
        resolve(config)


def test_compression_without_syncs_is_refused() -> None:
    config = paper("150M", 512)
    config.fault_tolerance.semi_sync_method, config.compression = "none", Compression(kind="linear")
    with pytest.raises(UserError, match="compression.kind linear has no pseudogradients to compress"):
        resolve(config)


def test_the_outer_optimizer_is_derived_from_the_method() -> None:
    """The paper's best at K = 1 (PAPER 4.2), or the average: theta - (theta - mean of the workers)."""
    config = paper("150M", 512, 2)
    resolved = resolve(config)
    assert (resolved.outer_optimizer.lr, resolved.outer_optimizer.momentum) == (0.7, 0.6)
    config.fault_tolerance.semi_sync_method = "local_sgd"
    resolved = resolve(config)
    assert (resolved.outer_optimizer.lr, resolved.outer_optimizer.momentum) == (1.0, 0.0)
    assert resolve(resolved) == resolved
    assert config.outer_optimizer == OuterOptimizer(), "what the user chose is left alone"


def test_the_number_of_fragments_is_derived_from_their_modules() -> None:
    config = paper("150M", 512, 2)
    assert resolve(config).fault_tolerance.num_fragments == 1
    config.fault_tolerance.module_fqns_per_model_fragment = (FIRST, REST)
    assert resolve(config).fault_tolerance.num_fragments == 2
    config.fault_tolerance = FaultTolerance(num_fragments=9, sync_steps=9)
    assert resolve(config).fault_tolerance.num_fragments == 9, "one a module"


@pytest.mark.parametrize(("tensor", "pipeline"), [(4, 1), (1, 4), (2, 2)])
def test_ranks_that_share_a_model_share_their_batch(tensor: int, pipeline: int) -> None:
    """Three data-parallel ranks of four ranks each are 12 processes, that read 3 different parts of a batch."""
    config = paper("150M", 6)
    config.parallelism.data_parallel_shard_degree = 3
    config.parallelism.tensor_parallel_degree, config.parallelism.pipeline_parallel_degree = tensor, pipeline
    config.training.local_batch_size, config.validation.sequences = 2, 6
    resolved = resolve(config)
    assert (resolved.ranks_per_worker, resolved.data_parallel_ranks) == (12, 3)


@pytest.mark.parametrize(
    ("workers", "local", "suggested"),
    [
        (4, 8, "; local_batch_size 4, 2 or 1 would fit"),
        (16, 8, "; local_batch_size 1 would fit"),
        (3, 8, "; global_batch_size 24 would fit"),
        (3, 2, "; global_batch_size 12 or 18 would fit"),
    ],
)
def test_a_batch_that_does_not_divide_names_batches_that_do(workers: int, local: int, suggested: str) -> None:
    config = paper("tiny", 16, workers)
    config.training.local_batch_size = local
    with pytest.raises(UserError) as refusal:
        resolve(config)
    assert str(refusal.value).endswith(suggested)
    option, *sizes = re.findall(r"\w+_batch_size|\d+", suggested)
    for size in sizes:  # they really do
        setattr(config.training, option, int(size))
        resolve(config)


@pytest.mark.parametrize(("transport", "workers"), [("torchft", 1), ("in_process", 2)])
def test_chaos_without_other_worker_processes_is_refused(transport: str, workers: int) -> None:
    config = paper("tiny", 16, workers)
    config.fault_tolerance.transport, config.chaos.interval_seconds = transport, 3
    with pytest.raises(UserError, match="needs fault_tolerance.transport torchft and at least two workers"):
        resolve(config)


def test_wandb_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = paper("150M", 512)
    config.metrics.wandb = True
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        resolve(config)


@pytest.mark.parametrize(
    ("path", "precision"),
    [
        ("config/diloco/2x_4gpu_muloco.py", "autocast"),
        ("config/ddp/adamw.py", "autocast"),
        ("config/ddp/8gpu_test_3B.py", "bfloat16"),
        ("config/laptop/muloco.py", "float32"),
    ],
)
def test_precision_is_the_papers(path: str, precision: str) -> None:
    """PAPER 11: autocast where parameters are replicated, FSDP's mixed precision where they are sharded."""
    assert resolve(load_config(path)).training.precision == precision
