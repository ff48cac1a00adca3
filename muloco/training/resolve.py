"""From what the user chose to what will run: every derived value is derived here, once, and the whole is checked."""

import copy
import functools
import importlib.util
import math
import time
from pathlib import Path

from muloco.data.errors import DataError
from muloco.data.sources import EMBEDDED, is_hub, open_source
from muloco.data.tokenizer import SMALLEST_VOCABULARY, DocumentTokenizer
from muloco.model.flavors import Flavor, flavor
from muloco.training.config import Compression, Config, Optimizer, Role
from muloco.training.evaluation import check_evaluation
from muloco.training.load import ConfigError

_FREE_OF_CODEC = ("reduce", "error_feedback", "error_decay", "error_alpha", "skip_norms", "skip_embeddings")
WEIGHT_DECAY_BATCH = 512  # sequences at which the flavors' weight decays hold (PAPER 2.4)


def resolve(chosen: Config, *, config_name: str = "run") -> Config:
    """A copy of `chosen` in which nothing is left to derive.

    Args:
        chosen: as loaded; fields that are not None stay as they are.
        config_name: what a run without a name is called after.

    Raises:
        ConfigError: values or combinations that cannot run, in one line that says what is allowed.
    """
    config = copy.deepcopy(chosen)
    try:
        size = flavor(config.model.flavor)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    config.model.flavor = size.name
    _check_ranges(config, size)
    _check_optimizer(config.optimizer)
    _resolve_method(config)
    _resolve_data(config, size)
    _check_workers(config)
    _resolve_outer(config, size)
    _resolve_compression(config)
    _check_tensor_parallel(config, size)
    _derive_steps(config, size)
    if config.optimizer.weight_decay is None:
        config.optimizer.weight_decay = _weight_decay(config, size)
    _check_batches(config)
    check_evaluation(config)
    if config.checkpoint.initial is not None:
        from muloco.training.initial import check_initial  # with torch, which plain runs need not wait for

        config.checkpoint.initial = str(Path(config.checkpoint.initial).absolute())
        check_initial(Path(config.checkpoint.initial), size)
    if config.run.name is None:
        config.run.name = f"{config_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if Path(config.run.name).name != config.run.name:
        raise ConfigError(f"run.name is a folder below run.outputs, not a path; got {config.run.name!r}")
    return config


def _check_ranges(config: Config, size: Flavor) -> None:
    training = config.training
    at_least_one = {
        "training.seq_len": training.seq_len,
        "training.global_batch_size": training.global_batch_size,
        "training.local_batch_size": training.local_batch_size,
        "training.steps": training.steps,
        "training.tokens": training.tokens,
        "lr_scheduler.total_steps": config.lr_scheduler.total_steps,
        "optimizer.orthogonalization_steps": config.optimizer.orthogonalization_steps,
        "fault_tolerance.group_size": config.fault_tolerance.group_size,
        "fault_tolerance.min_replica_size": config.fault_tolerance.min_replica_size,
        "fault_tolerance.num_fragments": config.fault_tolerance.num_fragments,
        "fault_tolerance.sync_steps": config.fault_tolerance.sync_steps,
        "parallelism.data_parallel_shard_degree": config.parallelism.data_parallel_shard_degree,
        "parallelism.data_parallel_replicate_degree": config.parallelism.data_parallel_replicate_degree,
        "parallelism.tensor_parallel_degree": config.parallelism.tensor_parallel_degree,
        "data.shuffle_buffer": config.data.shuffle_buffer,
        "validation.freq": config.validation.freq,
        "validation.sequences": config.validation.sequences,
        "metrics.log_freq": config.metrics.log_freq,
        "checkpoint.interval": config.checkpoint.interval,
    }
    positive = {
        "training.max_norm": training.max_norm,
        "optimizer.lr": config.optimizer.lr,
        "optimizer.eps": config.optimizer.eps,
        **{f"optimizer.{name}.lr_factor": role.lr_factor for name, role in config.optimizer.roles().items()},
        "outer_optimizer.lr": config.outer_optimizer.lr,
        "outer_optimizer.eps": config.outer_optimizer.eps,
        "chaos.interval_seconds": config.chaos.interval_seconds,
        "chaos.stop_seconds": config.chaos.stop_seconds,
        "fault_tolerance.quorum_timeout_seconds": config.fault_tolerance.quorum_timeout_seconds,
        "fault_tolerance.straggler_timeout_seconds": config.fault_tolerance.straggler_timeout_seconds,
        "fault_tolerance.heartbeat_timeout_seconds": config.fault_tolerance.heartbeat_timeout_seconds,
        "fault_tolerance.exchange_timeout_seconds": config.fault_tolerance.exchange_timeout_seconds,
    }
    not_negative = {
        "optimizer.weight_decay": config.optimizer.weight_decay,
        **{
            f"optimizer.{name}.weight_decay_factor": role.weight_decay_factor
            for name, role in config.optimizer.roles().items()
        },
        "fault_tolerance.restarts": config.fault_tolerance.restarts,
        "lr_scheduler.warmup_steps": config.lr_scheduler.warmup_steps,
        "checkpoint.keep": config.checkpoint.keep,
    }
    below_one = {
        "optimizer.beta1": config.optimizer.beta1,
        "optimizer.beta2": config.optimizer.beta2,
        "optimizer.mu": config.optimizer.mu,
        "optimizer.mu_x": config.optimizer.mu_x,
        "outer_optimizer.momentum": config.outer_optimizer.momentum,
        "outer_optimizer.beta1": config.outer_optimizer.beta1,
        "outer_optimizer.beta2": config.outer_optimizer.beta2,
    }
    for checks, fits, allowed in (
        (at_least_one, lambda value: value >= 1, "at least 1"),
        (positive, lambda value: value > 0, "above 0"),
        (not_negative, lambda value: value >= 0, "0 or more"),
        (below_one, lambda value: 0 <= value < 1, "from 0 to below 1"),
    ):
        for name, value in checks.items():
            if value is not None and not fits(value):
                raise ConfigError(f"{name} must be {allowed}; got {value}")
    for name, share in (
        ("lr_scheduler.min_lr_factor", config.lr_scheduler.min_lr_factor),
        ("outer_optimizer.min_lr_factor", config.outer_optimizer.min_lr_factor),
        ("fault_tolerance.fragment_update_alpha", config.fault_tolerance.fragment_update_alpha),
    ):
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} must be from 0 to 1; got {share}")
    if config.metrics.wandb and config.worker_processes < config.workers:
        raise ConfigError("metrics.wandb needs a process for each worker: fault_tolerance.transport torchft")
    if config.metrics.wandb and importlib.util.find_spec("wandb") is None:
        raise ConfigError("metrics.wandb needs the package wandb: pip install wandb")


def _check_optimizer(optimizer: Optimizer) -> None:
    if optimizer.name == "SGD":
        refused = [f"optimizer.{name}.*" for name, role in optimizer.roles().items() if role != Role()]
        if optimizer.cautious_weight_decay:
            refused.append("optimizer.cautious_weight_decay")
        if refused:
            raise ConfigError(
                f"optimizer.name SGD steps all parameters alike and does not know {', '.join(refused)}; "
                "choose Muon or AdamW, or leave that out"
            )
    if optimizer.scalar.rule == "muon":
        raise ConfigError("optimizer.scalar.rule muon: norms are vectors, muon takes matrices; choose adamw or lion")


def _resolve_method(config: Config) -> None:
    """How workers are brought together, and the constants of primal averaging (PAPER 3.6), which is one of the ways."""
    ft, optimizer = config.fault_tolerance, config.optimizer
    averages = optimizer.name == "GPA"
    if ft.semi_sync_method is None:
        ft.semi_sync_method = "gpa" if averages else "diloco"
    if averages != (ft.semi_sync_method == "gpa"):
        raise ConfigError(
            "optimizer.name GPA and fault_tolerance.semi_sync_method gpa go together; got "
            f"{optimizer.name} and {ft.semi_sync_method} (without the latter, it follows from the former)"
        )
    if not averages:
        if optimizer.mu_x is not None or optimizer.mu_y is not None:
            raise ConfigError(f"optimizer.mu_x and optimizer.mu_y belong to optimizer.name GPA; got {optimizer.name}")
        return
    optimizer.mu_x = 0.9967 ** (32 / ft.sync_steps) if optimizer.mu_x is None else optimizer.mu_x
    optimizer.mu_y = 0.7 if optimizer.mu_y is None else optimizer.mu_y
    if not 0 < optimizer.mu_y <= 1:
        raise ConfigError(f"optimizer.mu_y must be above 0 and at most 1; got {optimizer.mu_y}")


def _resolve_data(config: Config, size: Flavor) -> None:
    """Checks that data and tokenizer are there and fit; paths become absolute, so that a run resumes from anywhere."""
    data = config.data
    if not data.sources:
        raise ConfigError("data.corpus names no source")
    if data.prepare is None:
        data.prepare = not any(map(is_hub, data.sources))
    if data.weights is not None:
        if len(data.weights) != len(data.sources):
            raise ConfigError(f"data.weights has {len(data.weights)} entries, data.corpus has {len(data.sources)}")
        if not all(0 < weight < math.inf for weight in data.weights):
            raise ConfigError(f"data.weights must be above 0; got {data.weights}")
    elif len(data.sources) > 1 and not data.prepare and any(map(is_hub, data.sources)):
        raise ConfigError("data.weights is needed: the size of a data set on the hub is not known while it is streamed")
    corpus = tuple(map(_absolute, data.sources))
    data.corpus = corpus[0] if isinstance(data.corpus, str) else corpus
    data.validation = data.validation and _absolute(data.validation)
    try:
        for name in (*corpus, *([data.validation] if data.validation else [])):
            if name != EMBEDDED:
                open_source(name, data.text_field)
        if data.tokenizer != EMBEDDED:
            data.tokenizer = str(Path(data.tokenizer).absolute())
            entries = _entries(Path(data.tokenizer))
            if entries > size.vocabulary:
                raise ConfigError(
                    f"data.tokenizer {data.tokenizer} has {entries} entries, "
                    f"more than the {size.vocabulary} of flavor {size.alias}"
                )
    except DataError as error:
        raise ConfigError(str(error)) from None
    if data.tokenizer == EMBEDDED and not SMALLEST_VOCABULARY <= data.vocabulary <= size.vocabulary:
        raise ConfigError(
            f"data.vocabulary must be from {SMALLEST_VOCABULARY} to the {size.vocabulary} of flavor {size.alias}; "
            f"got {data.vocabulary}"
        )


@functools.cache
def _entries(tokenizer: Path) -> int:
    """How many entries a tokenizer has. A large one takes a second to load, and a sweep asks for each of its runs."""
    return DocumentTokenizer(tokenizer).vocab_size


def _absolute(source: str) -> str:
    return source if source == EMBEDDED or is_hub(source) else str(Path(source).absolute())


def _check_workers(config: Config) -> None:
    ft = config.fault_tolerance
    if not 0 <= ft.replica_id < ft.group_size:
        raise ConfigError(
            f"fault_tolerance.replica_id must be from 0 to group_size - 1 = {ft.group_size - 1}; got {ft.replica_id}"
        )
    if ft.semi_sync_method == "none" and ft.group_size > 1:
        raise ConfigError(
            f"fault_tolerance.semi_sync_method none leaves {ft.group_size} workers apart for good; "
            "choose diloco or local_sgd, or group_size 1 with data-parallel ranks (parallelism.data_parallel_*_degree)"
        )
    if ft.min_replica_size > ft.group_size:
        raise ConfigError(
            f"fault_tolerance.min_replica_size {ft.min_replica_size} is more than the group_size {ft.group_size}"
        )
    if config.chaos.interval_seconds is not None and config.worker_processes == 1:
        raise ConfigError("chaos.interval_seconds needs several workers that are processes: nobody would go on")
    if not config.chaos.kinds:
        raise ConfigError("chaos.kinds names no kind of fault; there are kill, stop and cut")
    if ft.transport == "in_process" and ft.process_group == "nccl":
        raise ConfigError("fault_tolerance.process_group nccl joins processes; with transport in_process leave it auto")


def _resolve_outer(config: Config, size: Flavor) -> None:
    """The outer optimizer's derived values, and whether fragments, sync interval and delay fit together."""
    ft, outer = config.fault_tolerance, config.outer_optimizer
    averages = ft.semi_sync_method in ("local_sgd", "gpa")
    if averages and (outer.class_name != "sgd" or outer.lr not in (None, 1.0) or outer.momentum not in (None, 0.0)):
        raise ConfigError(
            f"fault_tolerance.semi_sync_method {ft.semi_sync_method} averages the workers: its outer optimizer is sgd "
            f"with lr 1 and momentum 0; got {outer.class_name}, {outer.lr}, {outer.momentum} (diloco takes any)"
        )
    outer.lr = (1.0 if averages else 0.7) if outer.lr is None else outer.lr
    outer.momentum = (0.0 if averages else 0.6) if outer.momentum is None else outer.momentum
    modules = ft.module_fqns_per_model_fragment
    if ft.num_fragments is None:
        ft.num_fragments = 1 if modules is None else len(modules)
    if modules is not None and len(modules) != ft.num_fragments:
        raise ConfigError(
            f"fault_tolerance.num_fragments is {ft.num_fragments}, module_fqns_per_model_fragment has {len(modules)}"
        )
    if ft.num_fragments == 1 and ft.fragment_sync_delay == 0 and modules is None:
        return
    from muloco.outer.fragments import Schedule, by_modules, by_number  # with torch, which plain runs need not wait for

    names = [f"{module}.weight" for module in size.modules]
    try:
        if modules is None:
            by_number(dict.fromkeys(names, 1), ft.num_fragments)
        else:
            by_modules(names, [fragment.split(",") for fragment in modules])
        Schedule(sync_interval=ft.sync_steps, fragments=ft.num_fragments, delay=ft.fragment_sync_delay)
    except ValueError as error:
        raise ConfigError(f"fault_tolerance: {error}") from None


def _resolve_compression(config: Config) -> None:
    chosen = config.compression
    if chosen.kind != "none" and config.fault_tolerance.semi_sync_method == "none":
        raise ConfigError(
            f"compression.kind {chosen.kind} has no pseudogradients to compress: fault_tolerance.semi_sync_method is "
            "none; choose diloco, or leave compression out"
        )
    for name, share in (("error_decay", chosen.error_decay), ("error_alpha", chosen.error_alpha)):
        if not 0 <= share <= 1:
            raise ConfigError(f"compression.{name} must be from 0 to 1; got {share}")
    if chosen.kind == "none" and chosen.error_feedback:
        raise ConfigError(
            "compression.error_feedback needs a compression.kind that loses something; with none, nothing"
        )
    if chosen.kind in ("linear", "statistical", "lloyd_max") and chosen.bits is None:
        chosen.bits = 4
    if chosen.kind == "topk":
        chosen.fraction = 0.1 if chosen.fraction is None else chosen.fraction
        chosen.values = chosen.values or "fp32"
        if chosen.values not in ("fp32", "bf16") and chosen.bits is None:
            chosen.bits = 4
    if chosen == Compression(**{name: getattr(chosen, name) for name in _FREE_OF_CODEC}):
        return  # kind none, and nothing that it does not take
    from muloco.outer.codecs import build_codec  # with torch, which plain runs need not wait for

    try:
        build_codec(
            chosen.kind,
            bits=chosen.bits,
            granularity=chosen.granularity,
            fraction=chosen.fraction,
            values=chosen.values,
        )
    except ValueError as error:
        raise ConfigError(f"compression: {error}") from None


def _check_tensor_parallel(config: Config, size: Flavor) -> None:
    degree = config.parallelism.tensor_parallel_degree
    for what, number in (
        (f"heads of flavor {size.alias}", size.heads),
        (f"hidden units of its feed-forward (flavor {size.alias})", size.feed_forward_width),
        (f"entries of its vocabulary (flavor {size.alias})", size.vocabulary),
        ("tokens of training.seq_len, which the norms are divided over", config.training.seq_len),
    ):
        if number % degree:
            raise ConfigError(f"parallelism.tensor_parallel_degree {degree} must divide the {number} {what}")


def _derive_steps(config: Config, size: Flavor) -> None:
    training = config.training
    if training.steps is not None:
        if training.tokens is not None and training.tokens != training.steps * config.tokens_per_step:
            raise ConfigError(
                f"training.steps {training.steps} x {config.tokens_per_step} tokens a step are not "
                f"training.tokens {training.tokens}; give one of the two"
            )
    else:
        training.steps = max(1, (training.tokens or size.token_budget) // config.tokens_per_step)
    training.tokens = training.steps * config.tokens_per_step


def _weight_decay(config: Config, size: Flavor) -> float:
    """The paper's rule (PAPER 2.4): proportional to the batch of one worker."""
    chosen = config.optimizer
    muon = chosen.name == "Muon" or (chosen.name == "GPA" and chosen.matrix.rule == "muon")
    best = size.muon_decay if muon else size.adamw_decay
    return best * config.training.global_batch_size / config.workers / WEIGHT_DECAY_BATCH


def _check_batches(config: Config) -> None:
    training, validation, ranks = config.training, config.validation, config.data_parallel_ranks
    share = training.local_batch_size * ranks * config.workers
    if training.global_batch_size % share:
        raise ConfigError(
            f"training.global_batch_size {training.global_batch_size} must be a multiple of "
            f"{config.workers} workers x {ranks} data-parallel ranks x local_batch_size {training.local_batch_size} "
            f"= {share}"
        )
    if validation.sequences % (training.local_batch_size * ranks):
        raise ConfigError(
            f"validation.sequences {validation.sequences} must be a multiple of {ranks} data-parallel ranks x "
            f"training.local_batch_size {training.local_batch_size} = {training.local_batch_size * ranks}"
        )
