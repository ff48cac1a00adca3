"""Options by the names that they have elsewhere: answered with ours, and read from the paper's configs."""

import logging
import re
from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.resolve import resolve
from muloco.settings.config import Config
from muloco.settings.fields import field_types, flatten
from muloco.settings.load import CHECKOUT, load_config
from muloco.settings.optimizer import Role
from muloco.settings.other_names import PAPER
from muloco.settings.overrides import apply_overrides
from muloco.settings.paper_forms import settle

DOCUMENT = (CHECKOUT / "docs/coming-from-the-papers-repository.md").read_text()
OPTIONS = DOCUMENT[DOCUMENT.index("## Options") :]


def test_the_document_and_the_table_know_the_same() -> None:
    """What the document says of an option is what `muloco train --OPTION` answers."""
    rows = [line.split("|")[1:3] for line in OPTIONS.splitlines() if line.startswith("| `")]
    named = 0
    for theirs, ours in rows:
        names = re.findall(r"`([\w.]+)`", theirs)
        if theirs.strip().startswith("`outer_optimizer.kwargs` "):
            names = [f"outer_optimizer.kwargs.{word}" for word in re.findall(r"\w+", theirs.split("`")[2])]
        for name in names:
            if "." not in name or name in field_types():
                continue
            named += 1
            fields = set(re.findall(r"--(\w+\.[\w.]*\w)", PAPER[name].here))
            assert fields <= set(re.findall(r"--(\w+\.[\w.]*\w)", ours)), name
            assert fields <= set(field_types()), name
    assert named > 30


@pytest.mark.parametrize(
    ("option", "ours"),
    [
        ("--cfg_options", "options are --section.field value"),
        ("--optimizer.learning_rate", "use --optimizer.lr"),
        ("--fault_tolerance.enable", "use --fault_tolerance.semi_sync_method"),
        ("--training.compile", "use --compile.enable"),
        ("--training.seed", "use --run.seed"),
        ("--metrics.eval_freq", "use --validation.freq"),
        ("--lr", "did you mean --optimizer.lr or --outer_optimizer.lr?"),
        ("--learning_rate", "use --optimizer.lr"),
        ("--num_train_epochs", "use --training.tokens or --training.steps"),
        ("--per_device_train_batch_size", "use --training.local_batch_size"),
        ("--per-device-train-batch-size", "use --training.local_batch_size"),
        ("--warmup_steps", "use --lr_scheduler.warmup_steps"),
        ("--max_steps", "use --training.steps"),
        ("--seed", "use --run.seed"),
        ("--training.lr_min", "use --lr_scheduler.min_lr_factor"),
        ("--job.dump_folder", "use --run.outputs"),
        ("--outer_optimizer.kwargs", "use --outer_optimizer.lr"),
        ("--model.flavour", "did you mean --model.flavor?"),
        ("--optimizer", "did you mean --optimizer.name or --optimizer.lr or --optimizer.weight_decay?"),
        ("--no_such_thing", "`muloco train CONFIG --help` lists all options"),
    ],
)
def test_an_option_from_elsewhere_is_answered_with_ours(option: str, ours: str) -> None:
    with pytest.raises(UserError) as refusal:
        apply_overrides(Config(), [option, "3"])
    text = str(refusal.value)
    assert text.startswith(f"unknown option {option}; {ours}") and "\n" not in text and len(text) < 200


@pytest.mark.parametrize(
    ("written", "field", "value"),
    [
        ({"training": {"compile": True}}, "compile.enable", True),
        ({"training": {"seed": 7, "mixed_precision_param": "float32"}}, "run.seed", 7),
        ({"metrics": {"eval_freq": 30}}, "validation.freq", 30),
        ({"lr_scheduler": {"lr_min": 0.2}}, "lr_scheduler.min_lr_factor", 0.2),
        (
            {"fault_tolerance": {"enable": False, "semi_sync_method": "diloco"}},
            "fault_tolerance.semi_sync_method",
            "none",
        ),
        ({"fault_tolerance": {"enable": True, "group_size": 4}}, "fault_tolerance.group_size", 4),
        ({"fault_tolerance": {"group_size": 0}}, "fault_tolerance.group_size", 1),
        ({"fault_tolerance": {"use_gpa": True, "enable": False}}, "optimizer.name", "GPA"),
        ({"optimizer": {"name": "muon", "scalar_optimizer": "lion"}}, "optimizer.scalar.rule", "lion"),
        ({"optimizer": {"name": "muon"}}, "optimizer.name", "Muon"),
        ({"optimizer": {"head": {"lr_factor": 2}}}, "optimizer.head.lr_factor", 2.0),
        (
            {"optimizer": {"use_polar_express": True, "use_triton": True}},
            "optimizer.orthogonalization",
            "polar_express",
        ),
        ({"outer_optimizer": {"kwargs": {"lr": 0.8, "maximize": True}}}, "outer_optimizer.lr", 0.8),
        ({"outer_optimizer": {"class_name": "quantized_outer_sgd"}}, "outer_optimizer.class_name", "sgd"),
        ({"outer_optimizer": {"kwargs": {"quantization_bins": 16}}}, "compression.bits", 4),
        ({"outer_optimizer": {"kwargs": {"compressor_type": "row_wise_linear"}}}, "compression.granularity", "row"),
        (
            {"outer_optimizer": {"kwargs": {"simulate_quantization_after_reduce": False}}},
            "compression.reduce",
            "gather",
        ),
        (
            {"outer_optimizer": {"kwargs": {"simulate_quantization_after_reduce": True}}},
            "compression.reduce",
            "requantize",
        ),
        ({"outer_optimizer": {"kwargs": {"use_ef": True}}}, "compression.error_feedback", True),
        ({"checkpoint": {"async_mode": "disabled", "keep_latest_k": 3}}, "checkpoint.asynchronous", False),
        (
            {"fault_tolerance": {"module_fqns_per_model_fragment": [["tok_embeddings"], ["norm", "output"]]}},
            "fault_tolerance.module_fqns_per_model_fragment",
            ("tok_embeddings", "norm,lm_head"),
        ),
    ],
)
def test_sections_as_the_papers_dicts_are_read(written: dict, field: str, value: object) -> None:
    config = Config()
    for section, fields in written.items():
        setattr(config, section, fields)
    settle(config)
    assert flatten(config)[field] == value


def test_names_of_the_papers_are_read_as_attributes_too() -> None:
    config = Config()
    config.fault_tolerance.enable = False
    config.training.compile = True
    config.outer_optimizer.kwargs = {"lr": 0.8, "maximize": True}
    config.fault_tolerance.group_size = 1
    settle(config)
    expected = Config()
    expected.fault_tolerance.semi_sync_method = "none"
    expected.compile.enable = True
    expected.outer_optimizer.lr = 0.8
    assert config == expected


THEIRS = """
optimizer = {'name': 'Muon', 'lr': 0.03, 'mu': 0.8, 'algorithm': 'muon', 'scalar_optimizer': 'adamw'}
outer_optimizer = {'kwargs': {'lr': 0.5, 'momentum': 0.4, 'nesterov': True, 'maximize': True,
                              'compressor_type': 'topk', 'quantization_bins': 4, 'topk_sparsity_ratio': 0.2},
                   'class_name': 'quantized_outer_sgd'}
fault_tolerance = {'enable': True, 'group_size': 2, 'sync_steps': 5, 'brand_new': 1}
lr_scheduler = {'decay_type': 'linear', 'warmup_steps': 3, 'lr_min': 0.2}
training = {'compile': False, 'global_batch_size': 8, 'local_batch_size': 2, 'seq_len': 64, 'steps': 11}
model = {'flavor': 'tiny'}
memory_estimation = {'enabled': False},
data_train = {'sources': [{'path': 'books.jsonl', 'weight': 1}]}
"""


def test_a_config_file_of_the_papers_repository_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dicts in place of a function; what has another meaning here, or none, is said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.py").write_text(THEIRS)
    (tmp_path / "books.jsonl").write_text('{"text": "a book"}\n')
    config = load_config("theirs.py", ["--validation.sequences", "4"])
    fields, default = flatten(config), flatten(Config())
    assert {name: value for name, value in fields.items() if value != default[name]} == {
        "model.flavor": "tiny",
        "data.corpus": "books.jsonl",
        "training.seq_len": 64,
        "training.global_batch_size": 8,
        "training.local_batch_size": 2,
        "training.steps": 11,
        "optimizer.lr": 0.03,
        "optimizer.mu": 0.8,
        "optimizer.scalar.rule": "adamw",
        "lr_scheduler.decay_type": "linear",
        "lr_scheduler.warmup_steps": 3,
        "lr_scheduler.min_lr_factor": 0.2,
        "fault_tolerance.group_size": 2,
        "fault_tolerance.sync_steps": 5,
        "outer_optimizer.lr": 0.5,
        "outer_optimizer.momentum": 0.4,
        "compression.kind": "topk",
        "compression.fraction": 0.2,
        "validation.sequences": 4,
    }
    assert resolve(config).workers == 2
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    for words in ("maximize", "global_batch_size", "training.steps", "fault_tolerance.brand_new"):
        assert len([line for line in said if words in line]) == 1, words


def test_a_config_of_ours_is_read_without_a_note(caplog: pytest.LogCaptureFixture) -> None:
    load_config("config/laptop/muloco.py")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        (
            "fault_tolerance",
            {"enabel": True},
            "fault_tolerance.enabel; did you mean fault_tolerance.enable of the paper's repository? Here, use fault_t",
        ),
        ("outer_optimizer", {"kwargs": {"lrr": 1}}, "unknown field outer_optimizer.kwargs.lrr; "),
        ("outer_optimizer", {"kwargs": {"lr": "x"}}, "outer_optimizer.lr must be a number; got the text 'x'"),
        ("optimizer", {"head": {"lr_facto": 1}}, "optimizer.head.lr_facto; did you mean optimizer.head.lr_factor?"),
        ("training", {"steps": 1.5}, "training.steps must be a whole number; got 1.5"),
    ],
)
def test_a_dict_with_a_mistake_is_refused(section: str, fields: dict, message: str) -> None:
    config = Config()
    setattr(config, section, fields)
    with pytest.raises(UserError) as refusal:
        settle(config)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_section_inside_a_section_may_be_a_dict() -> None:
    config = Config()
    config.optimizer.lr = 0.5
    config.optimizer.scalar = {"weight_decay_factor": 2}  # type: ignore[assignment]
    settle(config)
    assert config.optimizer.scalar == Role(weight_decay_factor=2.0) and config.optimizer.lr == 0.5
    config.optimizer.head = {"lr_facto": 1}  # type: ignore[assignment]
    with pytest.raises(UserError, match="optimizer.head.lr_facto; did you mean optimizer.head.lr_factor"):
        settle(config)
