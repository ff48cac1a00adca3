"""Names of options elsewhere: in the paper's repository, whose configs are read, in torchtitan and in transformers.

One table suggests an option for each of these names, and reads the paper's configs. Needs nothing but Python.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from muloco.suggest import similar

Values = dict[str, Any]
"""Values of muloco's fields, by full name."""
_ANYTHING = object()


@dataclass(frozen=True)
class Other:
    """Another project's option, and its equivalent here."""

    here: str
    """The advice in the error message, such as the option to use."""
    read: Callable[[Any], Values] = lambda value: {}
    """Translates its value into values of our fields."""
    note: Callable[[Any], str | None] = lambda value: None
    """A note for the reader of the config, or None."""


def _renamed(field: str, values: Mapping[Any, Any] | None = None) -> Other:
    """Returns the entry for an option that has another name here, and maybe other names of its values."""

    def read(value: Any) -> Values:
        known = values is not None and isinstance(value, (str, bool, int, type(None))) and value in values
        return {field: values[value] if known and values is not None else value}

    return Other(f"use --{field}", read)


def _gone(why: str, usual: Any = _ANYTHING) -> Other:
    """An option without an equivalent. Values other than the usual one get a note."""
    return Other(why, note=lambda value: None if usual is _ANYTHING or value == usual else f"is ignored: {why}")


def _where_true(field: str, value: Any) -> Other:
    return Other(f"use --{field} {value}", lambda given: {field: value} if given else {})


def _bits(bins: Any) -> Values:
    whole = isinstance(bins, int) and bins > 1 and math.log2(bins).is_integer()
    return {"compression.bits": int(math.log2(bins)) if whole else bins}


def _compressor(kind: Any) -> Values:
    if isinstance(kind, str) and kind.startswith("row_wise_"):
        return {"compression.kind": kind.removeprefix("row_wise_"), "compression.granularity": "row"}
    return {"compression.kind": kind}


def _fragments(fragments: Any) -> Values:
    field = "fault_tolerance.module_fqns_per_model_fragment"
    if not isinstance(fragments, (list, tuple)):
        return {field: fragments}
    names = [fragment.split(",") if isinstance(fragment, str) else fragment for fragment in fragments]
    return {field: [["lm_head" if name == "output" else name for name in fragment] for fragment in names] or None}


def _sources(field: str, data: Any) -> Values:
    sets = data if isinstance(data, (list, tuple)) else [data]
    sources = [source for part in sets if isinstance(part, Mapping) for source in part.get("sources", ())]
    paths = [source["path"] for source in sources if isinstance(source, Mapping) and "path" in source]
    if not paths:
        return {}
    if field == "data.validation" or len(paths) == 1:
        return {field: paths[0]}
    return {field: paths, "data.weights": [source.get("weight", 1) for source in sources]}


_NOT_HERE = "muloco has no such option"
_BY_TITAN = "it is set in titan(config) (docs/torchtitan.md)"
_COMM = "the timeout of collectives within a worker is --parallelism.collective_timeout_seconds"
_WANDB = "set WANDB_PROJECT, WANDB_RUN_GROUP and WANDB_NAME in the environment"
_ROLES = ("scalar", "embedding", "head")

PAPER: dict[str, Other] = {
    "model.tokenizer_path": Other(
        "use --data.tokenizer, a folder with tokenizer.json", lambda path: {"data.tokenizer": path}
    ),
    "training.dataset": _gone("use --data.corpus"),
    "training.dataset_path": Other("use --data.corpus", lambda path: {"data.corpus": path} if path else {}),
    "data_train": Other("use --data.corpus", lambda data: _sources("data.corpus", data)),
    "data_val": Other("use --data.validation", lambda data: _sources("data.validation", data)),
    "optimizer.use_polar_express": _where_true("optimizer.orthogonalization", "polar_express"),
    "optimizer.use_triton": _gone("not needed; --optimizer.symmetric_products auto, the default, tries Triton"),
    "optimizer.adjust_lr": _renamed("optimizer.adjust_lr", {None: "none"}),
    **{f"optimizer.{role}_optimizer": _renamed(f"optimizer.{role}.rule") for role in _ROLES},
    **{f"optimizer.{role}_lr_factor": _renamed(f"optimizer.{role}.lr_factor") for role in _ROLES},
    "optimizer.gpa_kwargs.lr": _renamed("optimizer.lr"),
    "optimizer.gpa_kwargs.eps": _renamed("optimizer.eps"),
    "optimizer.gpa_kwargs.weight_decay": _renamed("optimizer.weight_decay"),
    "optimizer.gpa_kwargs.betas": Other(
        "use --optimizer.beta1 and --optimizer.beta2",
        lambda betas: dict(zip(("optimizer.beta1", "optimizer.beta2"), betas, strict=True)),
    ),
    "optimizer.gpa_kwargs.comms_interval": _gone("mu_x follows from --fault_tolerance.sync_steps"),
    "optimizer.gpa_kwargs.diloco_lr": _gone("GPA has --optimizer.mu_x and --optimizer.mu_y"),
    "optimizer.gpa_kwargs.diloco_momentum": _gone("GPA has --optimizer.mu_x and --optimizer.mu_y"),
    "optimizer.head_lr_scaling": _gone("--optimizer.head.lr_factor scales the head's learning rate", False),
    "lr_scheduler.lr_min": _renamed("lr_scheduler.min_lr_factor"),
    "training.compile": _renamed("compile.enable"),
    "training.mixed_precision_param": _renamed("training.precision"),
    "training.mixed_precision_reduce": _gone("gradients are reduced in float32", "float32"),
    "training.seed": _renamed("run.seed"),
    "metrics.eval_freq": _renamed("validation.freq"),
    "metrics.enable_tensorboard": _renamed("metrics.tensorboard"),
    "metrics.enable_wandb": _renamed("metrics.wandb"),
    "metrics.wandb_project": _gone(_WANDB),
    "metrics.wandb_suffix": _gone(_WANDB),
    "metrics.enable_lm_evaluation": Other(
        "use --evaluation.tasks paper", lambda given: {"evaluation.tasks": ["paper"]} if given else {}
    ),
    "fault_tolerance.enable": Other(
        "use --fault_tolerance.semi_sync_method, which is none for plain training",
        lambda given: {} if given else {"fault_tolerance.semi_sync_method": "none"},
        lambda given: (
            None
            if given
            else "False is read as semi_sync_method none, plain training; for several workers give "
            "--fault_tolerance.semi_sync_method diloco and --fault_tolerance.group_size"
        ),
    ),
    "fault_tolerance.group_size": _renamed("fault_tolerance.group_size", {0: 1}),
    "fault_tolerance.module_fqns_per_model_fragment": Other(
        "use --fault_tolerance.module_fqns_per_model_fragment", _fragments
    ),
    "fault_tolerance.use_gpa": _where_true("optimizer.name", "GPA"),
    "fault_tolerance.should_quantize": _gone("use --compression.kind", False),
    "fault_tolerance.use_quantized_outer_sgd": Other(
        "use --compression.kind", lambda given: {} if given else {"compression.kind": "none"}
    ),
    "fault_tolerance.checkpoint_keep_latest_k": _gone("use --checkpoint.keep"),
    "outer_optimizer.class_name": _renamed("outer_optimizer.class_name", {"quantized_outer_sgd": "sgd"}),
    "outer_optimizer.kwargs.lr": _renamed("outer_optimizer.lr"),
    "outer_optimizer.kwargs.momentum": _renamed("outer_optimizer.momentum"),
    "outer_optimizer.kwargs.nesterov": _renamed("outer_optimizer.nesterov"),
    "outer_optimizer.kwargs.weight_decay": _gone("the outer optimizer has no weight decay", 0.0),
    "outer_optimizer.kwargs.maximize": Other(
        "not needed: a pseudogradient is anchor minus worker everywhere",
        note=lambda value: f"{value!r} is ignored: a pseudogradient is anchor minus worker, so every step descends",
    ),
    "outer_optimizer.kwargs.compressor_type": Other("use --compression.kind", _compressor),
    "outer_optimizer.kwargs.quantization_bins": Other("use --compression.bits", _bits),
    "outer_optimizer.kwargs.quantization_range": _gone("the range is fixed at 6 standard deviations", 6),
    "outer_optimizer.kwargs.topk_sparsity_ratio": _renamed("compression.fraction"),
    "outer_optimizer.kwargs.skip_norm_quantization": _renamed("compression.skip_norms"),
    "outer_optimizer.kwargs.skip_embedding_quantization": _renamed("compression.skip_embeddings"),
    "outer_optimizer.kwargs.simulate_quantization_after_reduce": _renamed(
        "compression.reduce", {False: "gather", True: "requantize"}
    ),
    "outer_optimizer.kwargs.use_ef": Other(
        "use --compression.error_feedback",
        lambda given: {"compression.error_feedback": given},
        lambda given: (
            "with error feedback the paper's code applies the outer learning rate twice: give "
            "compression.error_gain the value of outer_optimizer.lr to do the same"
            if given
            else None
        ),
    ),
    "outer_optimizer.kwargs.error_decay": _renamed("compression.error_decay"),
    "outer_optimizer.kwargs.error_feedback_alpha": _renamed("compression.error_alpha"),
    "checkpoint.enable_checkpoint": _renamed("checkpoint.enable"),
    "checkpoint.keep_latest_k": _renamed("checkpoint.keep"),
    "checkpoint.async_mode": _renamed(
        "checkpoint.asynchronous", {"disabled": False, "async": True, "async_with_pinned_mem": True}
    ),
    "checkpoint.initial_load_path": _renamed("checkpoint.initial"),
    "checkpoint.keep_selected_checkpoints": _gone(_NOT_HERE, False),
    "job.dump_folder": _renamed("run.outputs"),
    "comm": _gone(_COMM),
    "comm.init_timeout_seconds": _gone(_COMM),
    "comm.train_timeout_seconds": _gone(_COMM),
    "parallelism.context_parallel_degree": _gone(_NOT_HERE, 1),
    "parallelism.enable_async_tensor_parallel": _gone(_BY_TITAN, False),
    "training.enable_cpu_offload": _gone(_NOT_HERE, False),
    "training.deterministic": _gone(_BY_TITAN, False),
    "model.converters": _gone(_BY_TITAN, []),
    "model.name": _gone("every model is a Llama", "llama3"),
    "activation_checkpoint.selective_ac_option": _gone(_NOT_HERE, "op"),
    **{name: _gone(_NOT_HERE) for name in ("experimental", "job", "memory_estimation")},
    **{name: _gone(_BY_TITAN) for name in ("float8", "mx", "profiling")},
    **{
        f"parallelism.pipeline_parallel_{name}": _gone(_BY_TITAN)
        for name in ("microbatch_size", "schedule", "schedule_csv")
    },
    **{
        f"{section}.{name}": _gone(_NOT_HERE)
        for section, names in {
            "optimizer": "algorithm early_step_in_backward flatten implementation routing_lr_factor routing_optimizer",
            "training": "eval_global_batch_size eval_local_batch_size gc_debug gc_freq train_num_workers "
            "val_num_workers",
            "checkpoint": "create_seed_checkpoint enable_first_step_checkpoint exclude_from_loading export_dtype "
            "folder initial_load_model_weights_only last_save_model_weights_only load_step",
            "metrics": "disable_color_printing is_sweep log_all_ranks save_for_all_ranks save_tb_folder sweep_id",
            "model": "print_after_conversion",
            "parallelism": "context_parallel_rotate_method disable_loss_parallel enable_compiled_autograd "
            "fsdp_reshard_after_forward pipeline_parallel_layers_per_stage pipeline_parallel_split_points",
        }.items()
        for name in names.split()
    },
    "outer_optimizer.kwargs": Other("use --outer_optimizer.lr and others, and --compression.kind and others"),
    "optimizer.gpa_kwargs": Other("use --optimizer.lr and others"),
}
"""Options of the paper's repository by full name, by which its configs are read. A nested setting adds a point and its
name to the name of the setting that holds it. docs/coming-from-the-papers-repository.md is the same list for people."""

MOVED = {
    "muloco.training.config": "import from muloco.settings.config",
    "muloco.training.load": "import load_config from muloco.settings.load and, instead of ConfigError, UserError from "
    "muloco.errors",
    "muloco.training.resolve": "import from muloco.resolve",
    "muloco.training.run_folder": "import from muloco.runs.folder",
}
"""Advice on modules of earlier versions, which configs and sweeps of users import."""

_ELSEWHERE = {
    "cfg_options": "options are --section.field value, without --cfg_options",
    "job.config_file": "the config is the first word: muloco train CONFIG",
    "config": "the config is the first word: muloco train CONFIG",
    "num_train_epochs": "use --training.tokens or --training.steps",
    "epochs": "use --training.tokens or --training.steps",
    "max_tokens": "use --training.tokens",
    "max_seq_length": "use --training.seq_len",
    "gradient_accumulation_steps": "it follows from --training.global_batch_size and --training.local_batch_size",
    "bf16": "use --training.precision bfloat16",
    "fp16": "use --training.precision bfloat16",
    "gradient_checkpointing": "use --activation_checkpoint.mode full",
    "resume": "use it without a section: muloco train CONFIG --resume",
    "resume_from_checkpoint": "resume with: muloco train outputs/NAME/config.json --resume",
    "dry_run": "use it without a section: muloco train CONFIG --dry-run",
    "report_to": "use --metrics.wandb true or --metrics.tensorboard true",
    "h": "use --fault_tolerance.sync_steps",
    "k": "use --fault_tolerance.group_size",
}
"""Advice on other names, such as torchtitan's and transformers', by their last part."""
_ELSEWHERE_FIELDS = {
    "optimizer.lr": "learning_rate learnrate max_lr peak_lr inner_lr",
    "outer_optimizer.lr": "outer_lr outer_learning_rate",
    "outer_optimizer.momentum": "outer_momentum",
    "optimizer.name": "optim optimizer optimizer_name",
    "optimizer.beta1": "adam_beta1",
    "optimizer.beta2": "adam_beta2",
    "optimizer.eps": "adam_epsilon",
    "optimizer.mu": "momentum",
    "lr_scheduler.warmup_steps": "warmup warmup_steps num_warmup_steps",
    "lr_scheduler.min_lr_factor": "min_lr min_lr_ratio min_lr_rate",
    "training.steps": "max_steps total_steps num_steps max_iters train_steps",
    "training.local_batch_size": "per_device_train_batch_size micro_batch_size batch_size",
    "training.global_batch_size": "train_batch_size",
    "training.max_norm": "max_grad_norm grad_clip clip_grad_norm",
    "training.seq_len": "block_size sequence_length max_length",
    "run.seed": "seed data_seed",
    "run.outputs": "output_dir dump_folder",
    "run.name": "run_name",
    "model.flavor": "model model_name model_name_or_path",
    "metrics.log_freq": "logging_steps log_interval",
    "validation.freq": "eval_steps eval_interval eval_freq",
    "checkpoint.interval": "save_steps save_interval",
    "checkpoint.keep": "save_total_limit",
    "compile.enable": "compile torch_compile",
    "data.corpus": "dataset dataset_name dataset_path train_file",
    "data.validation": "validation_file",
    "data.tokenizer": "tokenizer tokenizer_name tokenizer_path hf_assets_path",
    "fault_tolerance.group_size": "workers num_workers world_size",
    "fault_tolerance.sync_steps": "sync_interval sync_every",
}
_ELSEWHERE |= {name: f"use --{ours}" for ours, names in _ELSEWHERE_FIELDS.items() for name in names.split()}


def hint(name: str, known: Iterable[str], *, prefix: str = "--") -> str:
    """Says what to write, with this prefix of options, instead of a name that is not a field: in full, such as
    `training.compile`, or without a section. `known` are full names of fields, or the fields of the section that the
    name is in."""
    return re.sub(r"--(?=\w+\.)", prefix, _hint(name, list(known)))


def _hint(name: str, known: Sequence[str]) -> str:
    section, _, last = name.rpartition(".")
    if name in PAPER:
        return PAPER[name].here
    if below := [field for field in known if field.startswith(f"{name}.")]:
        return _mean(below)
    if almost := similar(name, known, cutoff=0.9):
        return _mean(almost)
    if almost := similar(name, PAPER, cutoff=0.9):
        return f"did you mean {almost[0]} of the paper's repository? Here, {PAPER[almost[0]].here}"
    lasts = {field: field.rsplit(".", 1)[-1] for field in known}
    ranked = sorted(known, key=lambda field: difflib.SequenceMatcher(None, name, field).ratio(), reverse=True)
    inside = [field for field in known if field.rpartition(".")[0] == section or "." not in field]
    close = similar(last, [lasts[field] for field in inside], cutoff=0.75)
    if section and close:
        return _mean([field for field in inside if lasts[field] == close[0]])
    if last.lower() in _ELSEWHERE:
        return _ELSEWHERE[last.lower()]
    same = [field for field in ranked if lasts[field] == last]
    theirs = [PAPER[field].here for field in PAPER if field.rsplit(".", 1)[-1] == last]
    if theirs and not same:
        return theirs[0]
    near = similar(last, list(dict.fromkeys(lasts.values())), cutoff=0.7)
    alike = [field for field in ranked if near and lasts[field] == near[0]]
    matches = same or alike or similar(name, known, cutoff=0.7)
    return _mean(matches) if matches else "`muloco train CONFIG --help` lists all options"


def _mean(matches: Sequence[str]) -> str:
    return f"did you mean {' or '.join(f'--{field}' if '.' in field else field for field in matches[:3])}?"
