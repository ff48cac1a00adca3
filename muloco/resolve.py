"""From what the user chose to what will run: every derived value is derived here, once, and the whole is checked."""

import copy
import functools
import importlib.util
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from muloco.data.sources import EMBEDDED, is_hub, open_source
from muloco.data.tokenizer import SMALLEST_VOCABULARY, DocumentTokenizer
from muloco.errors import UserError
from muloco.model.architecture import Flavor
from muloco.model.flavors import flavor
from muloco.model.initial import check_initial
from muloco.outer.codec_settings import QUANTIZED, check_settings
from muloco.outer.fragments import Schedule, by_modules, by_number
from muloco.settings.bounds import LONGEST_NAME
from muloco.settings.config import Config
from muloco.settings.load import naming, settle
from muloco.settings.optimizer import Optimizer, Role
from muloco.settings.training import Training

WEIGHT_DECAY_BATCH = 512  # sequences at which the flavors' weight decays hold (PAPER 2.4)


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """A resolved config, with the origins of its derived values."""

    config: Config
    """The config, in which all fields are set."""
    derived: Mapping[str, str]
    """The origin of each derived value, by the full name of its field."""
    notes: Sequence[str]
    """Remarks on settings that can run, but may be unintended."""


def resolve(chosen: Config, *, config_name: str = "run") -> Config:
    """The config of `resolution`, which takes the same arguments and raises the same errors."""
    return resolution(chosen, config_name=config_name).config


def resolution(chosen: Config, *, config_name: str = "run") -> Resolution:
    """A copy of `chosen` in which nothing is left to derive, and how its values were derived.

    Args:
        chosen: as loaded; fields that are not None stay as they are.
        config_name: the name after which a run without a name is named.

    Raises:
        UserError: values or combinations that cannot run, in one line that says what is allowed.
    """
    config = copy.deepcopy(chosen)
    derived: dict[str, str] = {}
    settle(config)
    try:
        size = flavor(config.model.flavor)
    except ValueError as error:
        raise UserError(str(error)) from None
    if config.model.flavor != size.name:
        derived["model.flavor"] = f"the full name of {config.model.flavor}"
        config.model.flavor = size.name
    _check_metrics(config)
    _check_optimizer(config.optimizer)
    _resolve_method(config, derived)
    _resolve_data(config, size, derived)
    _check_workers(config)
    _resolve_outer(config, size, derived)
    _resolve_compression(config, derived)
    _check_buffers(config, size)
    _check_tensor_parallel(config, size)
    _derive_steps(config, size, derived)
    if config.training.precision is None:
        layout = config.parallelism
        sharded = layout.data_parallel_shard_degree > 1 or layout.tensor_parallel_degree > 1
        config.training.precision = "bfloat16" if sharded else "autocast"
        derived["training.precision"] = "bfloat16 where a worker is sharded, else autocast (PAPER 11)"
    if config.optimizer.weight_decay is None:
        config.optimizer.weight_decay = _weight_decay(config, size, derived)
    _check_batches(config)
    _resolve_evaluation(config)
    if config.checkpoint.initial is not None:
        config.checkpoint.initial = str(Path(config.checkpoint.initial).absolute())
        check_initial(Path(config.checkpoint.initial), size)
    if config.run.name is None:
        config.run.name = f"{_usable(config_name)}-{time.strftime('%Y%m%d-%H%M%S')}"
        derived["run.name"] = "the name of the config file, and the time"
    return Resolution(config=config, derived=derived, notes=_notes(config))


def _notes(config: Config) -> list[str]:
    """Remarks on a config. A warm-up that is cut off is allowed, as a few steps of a long run's config are a usual
    trial."""
    notes = []
    warmup, steps, weights = config.lr_scheduler.warmup_steps, config.training.steps, config.data.weights
    if steps is not None and warmup > steps:
        notes.append(
            f"lr_scheduler.warmup_steps {warmup} is more than the {steps} steps of the run: the learning rate rises "
            "until the end"
        )
    schedule = config.lr_scheduler.total_steps
    if schedule is not None and schedule < min(warmup, steps or schedule):
        notes.append(
            f"lr_scheduler.warmup_steps {warmup} is more than lr_scheduler.total_steps {schedule}: the learning rate "
            f"rises for {schedule} steps and stays there"
        )
    if weights is not None and not math.isclose(total := math.fsum(weights), 1, rel_tol=1e-6):
        shares = ", ".join(f"{weight / total:.4g}" for weight in weights)
        notes.append(f"data.weights sum to {total:g}, not to 1; the shares of the sources are {shares}")
    return notes


def _usable(name: str) -> str:
    """The part of a config file's name that the name of a run may have."""
    return re.sub(r"[^A-Za-z0-9._+=,-]+", "-", name)[: LONGEST_NAME - len("-20260101-000000")].lstrip("-.") or "run"


def _check_metrics(config: Config) -> None:
    if config.metrics.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError("metrics.wandb needs the package wandb: pip install wandb")


def _check_optimizer(optimizer: Optimizer) -> None:
    if optimizer.name == "SGD":
        refused = [f"optimizer.{name}.*" for name, role in optimizer.roles().items() if role != Role()]
        if optimizer.cautious_weight_decay:
            refused.append("optimizer.cautious_weight_decay")
        if refused:
            raise UserError(
                f"optimizer.name SGD steps all parameters alike and does not know {', '.join(refused)}; "
                "choose Muon or AdamW, or leave that out"
            )
    if optimizer.scalar.rule == "muon":
        raise UserError("optimizer.scalar.rule muon: norms are vectors, muon takes matrices; choose adamw or lion")


def _resolve_method(config: Config, derived: dict[str, str]) -> None:
    """How workers are brought together, and the constants of primal averaging (PAPER 3.6), which is one of the ways."""
    ft, optimizer = config.fault_tolerance, config.optimizer
    averages = optimizer.name == "GPA"
    if ft.semi_sync_method is None:
        ft.semi_sync_method = "gpa" if averages else "diloco"
        derived["fault_tolerance.semi_sync_method"] = f"optimizer.name {optimizer.name}"
    if averages != (ft.semi_sync_method == "gpa"):
        raise UserError(
            "optimizer.name GPA and fault_tolerance.semi_sync_method gpa go together; got "
            f"{optimizer.name} and {ft.semi_sync_method} (without the latter, it follows from the former)"
        )
    if not averages:
        if optimizer.mu_x is not None or optimizer.mu_y is not None:
            raise UserError(f"optimizer.mu_x and optimizer.mu_y belong to optimizer.name GPA; got {optimizer.name}")
        return
    if optimizer.mu_x is None:
        optimizer.mu_x = 0.9967 ** (32 / ft.sync_steps)
        derived["optimizer.mu_x"] = f"0.9967^(32 / {ft.sync_steps}) for fault_tolerance.sync_steps {ft.sync_steps}"
    if optimizer.mu_y is None:
        optimizer.mu_y = 0.7
        derived["optimizer.mu_y"] = "the published value for every interval"


def _resolve_data(config: Config, size: Flavor, derived: dict[str, str]) -> None:
    """Checks that data and tokenizer are there and fit; paths become absolute, so that a run resumes from anywhere."""
    data = config.data
    if not data.sources:
        raise UserError("data.corpus names no source")
    if data.prepare is None:
        data.prepare = not any(map(is_hub, data.sources))
        derived["data.prepare"] = f"{'no' if data.prepare else 'a'} source of data.corpus is on the hub"
    if data.weights is not None:
        if len(data.weights) != len(data.sources):
            raise UserError(f"data.weights has {len(data.weights)} entries, data.corpus has {len(data.sources)}")
    elif len(data.sources) > 1 and not data.prepare and any(map(is_hub, data.sources)):
        raise UserError("data.weights is needed: the size of a data set on the hub is not known while it is streamed")
    corpus = tuple(map(_absolute, data.sources))
    data.corpus = corpus[0] if isinstance(data.corpus, str) else corpus
    data.validation = data.validation and _absolute(data.validation)
    for name in corpus:
        _check_source("data.corpus", name, data.text_field)
    if data.validation:
        _check_source("data.validation", data.validation, data.text_field)
    if data.tokenizer != EMBEDDED:
        data.tokenizer = str(Path(data.tokenizer).absolute())
        with naming("data.tokenizer"):
            entries = _entries(Path(data.tokenizer))
        if entries > size.vocabulary:
            raise UserError(
                f"data.tokenizer {data.tokenizer} has {entries} entries, "
                f"more than the {size.vocabulary} of flavor {size.alias}"
            )
    if data.tokenizer == EMBEDDED and not SMALLEST_VOCABULARY <= data.vocabulary <= size.vocabulary:
        raise UserError(
            f"data.vocabulary must be from {SMALLEST_VOCABULARY} to the {size.vocabulary} of flavor {size.alias}; "
            f"got {data.vocabulary}"
        )


def _check_source(option: str, name: str, text_field: str) -> None:
    if name == EMBEDDED:
        return
    try:
        with naming(option):
            open_source(name, text_field)
    except UserError as error:
        raise UserError(f"{option}: {error}") from None


@functools.cache
def _entries(tokenizer: Path) -> int:
    """How many entries a tokenizer has. A large one takes a second to load, and a sweep asks for each of its runs."""
    return DocumentTokenizer(tokenizer).vocab_size


def _absolute(source: str) -> str:
    return source if source == EMBEDDED or is_hub(source) else str(Path(source).absolute())


def _check_workers(config: Config) -> None:
    ft = config.fault_tolerance
    if not 0 <= ft.replica_id < ft.group_size:
        raise UserError(
            f"fault_tolerance.replica_id must be from 0 to group_size - 1 = {ft.group_size - 1}; got {ft.replica_id}"
        )
    if ft.semi_sync_method == "none" and ft.group_size > 1:
        raise UserError(
            f"fault_tolerance.semi_sync_method none leaves {ft.group_size} workers apart for good; "
            "choose diloco or local_sgd, or group_size 1 with data-parallel ranks (parallelism.data_parallel_*_degree)"
        )
    if ft.min_replica_size > ft.group_size:
        raise UserError(
            f"fault_tolerance.min_replica_size {ft.min_replica_size} is more than the group_size {ft.group_size}"
        )
    if config.chaos.interval_seconds is not None and config.worker_processes == 1:
        raise UserError("chaos.interval_seconds needs fault_tolerance.transport torchft and at least two workers")
    if not config.chaos.kinds:
        raise UserError("chaos.kinds names no kind of fault; there are kill, stop and cut")
    if ft.transport == "in_process" and ft.process_group == "nccl":
        raise UserError("fault_tolerance.process_group nccl joins processes; with transport in_process leave it auto")


def _resolve_outer(config: Config, size: Flavor, derived: dict[str, str]) -> None:
    """The outer optimizer's derived values, and whether fragments, sync interval and delay fit together."""
    ft, outer = config.fault_tolerance, config.outer_optimizer
    averages = ft.semi_sync_method in ("local_sgd", "gpa")
    if averages and (outer.class_name != "sgd" or outer.lr not in (None, 1.0) or outer.momentum not in (None, 0.0)):
        raise UserError(
            f"fault_tolerance.semi_sync_method {ft.semi_sync_method} averages the workers: its outer optimizer is sgd "
            f"with lr 1 and momentum 0; got {outer.class_name}, {outer.lr}, {outer.momentum} (diloco takes any)"
        )
    why = f"{ft.semi_sync_method}, which averages the workers" if averages else "the paper's best with one worker"
    if outer.lr is None:
        outer.lr = 1.0 if averages else 0.7
        derived["outer_optimizer.lr"] = why
    if outer.momentum is None:
        outer.momentum = 0.0 if averages else 0.6
        derived["outer_optimizer.momentum"] = why
    modules = ft.module_fqns_per_model_fragment
    if ft.num_fragments is None:
        ft.num_fragments = 1 if modules is None else len(modules)
        derived["fault_tolerance.num_fragments"] = (
            "the whole model is synced at once" if modules is None else "entries of module_fqns_per_model_fragment"
        )
    if modules is not None and len(modules) != ft.num_fragments:
        raise UserError(
            f"fault_tolerance.num_fragments is {ft.num_fragments}, module_fqns_per_model_fragment has {len(modules)}"
        )
    if ft.num_fragments == 1 and ft.fragment_sync_delay == 0 and modules is None:
        return
    names = [f"{module}.weight" for module in size.modules]
    try:
        if modules is None:
            by_number(dict.fromkeys(names, 1), ft.num_fragments)
        else:
            by_modules(names, [fragment.split(",") for fragment in modules])
        Schedule(sync_interval=ft.sync_steps, fragments=ft.num_fragments, delay=ft.fragment_sync_delay)
    except ValueError as error:
        raise UserError(f"fault_tolerance: {error}") from None


def _resolve_compression(config: Config, derived: dict[str, str]) -> None:
    chosen = config.compression
    if chosen.kind != "none" and config.fault_tolerance.semi_sync_method == "none":
        raise UserError(
            f"compression.kind {chosen.kind} has no pseudogradients to compress: fault_tolerance.semi_sync_method is "
            "none; choose diloco, or leave compression out"
        )
    if chosen.kind == "none" and chosen.error_feedback:
        raise UserError("compression.error_feedback needs a compression.kind that loses something; with none, nothing")
    if chosen.kind == "topk" and chosen.reduce == "requantize":
        raise UserError(
            "compression.reduce requantize is for quantizers: of the mean of topk it would keep only the largest "
            "elements; choose gather, the exact mean of the paper's top-k, or reselect"
        )
    if chosen.kind == "topk":
        if chosen.fraction is None:
            chosen.fraction = 0.1
            derived["compression.fraction"] = "compression.kind topk: a tenth, as in the paper's experiments"
        if chosen.values is None:
            chosen.values = "fp32"
            derived["compression.values"] = "compression.kind topk: values travel as they are"
    coded = chosen.values if chosen.kind == "topk" else chosen.kind
    if coded in QUANTIZED and chosen.bits is None:
        chosen.bits = 4
        derived["compression.bits"] = f"{coded} codes"
    try:
        check_settings(
            chosen.kind,
            bits=chosen.bits,
            granularity=chosen.granularity,
            fraction=chosen.fraction,
            values=chosen.values,
        )
    except ValueError as error:
        raise UserError(f"compression: {error}") from None


def _check_buffers(config: Config, size: Flavor) -> None:
    if size.record.buffers and config.syncs:
        raise UserError(
            f"model.flavor {size.alias}: training changes buffers of the architecture {size.architecture}, which "
            "workers do not average yet; choose fault_tolerance.semi_sync_method none with group_size 1"
        )


def _check_tensor_parallel(config: Config, size: Flavor) -> None:
    degree = config.parallelism.tensor_parallel_degree
    tokens = {"tokens of training.seq_len, which the norms are divided over": config.training.seq_len}
    for what, number in {**size.divided, **tokens}.items():
        if number % degree:
            raise UserError(f"parallelism.tensor_parallel_degree {degree} must divide the {number} {what}")


def _derive_steps(config: Config, size: Flavor, derived: dict[str, str]) -> None:
    training = config.training
    step = f"{training.global_batch_size:,} sequences x {training.seq_len:,} tokens"
    if training.steps is not None:
        if training.tokens is not None and training.tokens != training.steps * config.tokens_per_step:
            raise UserError(
                f"training.steps {training.steps} and training.tokens {training.tokens} do not agree: at "
                f"{config.tokens_per_step} tokens a step, {training.steps} steps are "
                f"{training.steps * config.tokens_per_step} tokens; give only one of the two"
            )
    else:
        budget = size.token_budget if training.tokens is None else training.tokens
        whose = f"of flavor {size.alias}" if training.tokens is None else "in training.tokens"
        training.steps = max(1, budget // config.tokens_per_step)
        derived["training.steps"] = f"{budget:,} tokens {whose} / ({step})"
    if training.tokens != training.steps * config.tokens_per_step:
        rounded = "" if training.tokens is None else f"; {training.tokens:,} were given"
        training.tokens = training.steps * config.tokens_per_step
        derived["training.tokens"] = f"{training.steps:,} steps x {step}{rounded}"


def _weight_decay(config: Config, size: Flavor, derived: dict[str, str]) -> float:
    """The paper's rule (PAPER 2.4): proportional to the batch of one worker."""
    chosen = config.optimizer
    muon = chosen.name == "Muon" or (chosen.name == "GPA" and chosen.matrix.rule == "muon")
    best = size.muon_decay if muon else size.adamw_decay
    batch, workers = config.training.global_batch_size, config.workers
    derived["optimizer.weight_decay"] = (
        f"{best:g} (the paper's best for {'Muon' if muon else 'AdamW'} at {size.alias} and {WEIGHT_DECAY_BATCH} "
        f"sequences) x ({batch} sequences / {workers} worker{'s' * (workers > 1)}) / {WEIGHT_DECAY_BATCH}"
    )
    return best * batch / workers / WEIGHT_DECAY_BATCH


def _resolve_evaluation(config: Config) -> None:
    """Checks the evaluation of a config whose steps are known; the folder of tasks becomes absolute."""
    chosen, steps = config.evaluation, config.training.steps
    chosen.check()
    if not chosen.tasks:
        return
    for at in chosen.at:
        if isinstance(at, int) and steps is not None and at > steps:
            raise UserError(f"evaluation.at: the run has {steps} steps; got {at} (shares have a point, such as 1.0)")
    if config.parallelism.tensor_parallel_degree > 1:
        raise UserError(
            "evaluation.tasks needs parallelism.tensor_parallel_degree 1; evaluate checkpoints instead (muloco eval)"
        )
    if chosen.include_path is not None:
        chosen.include_path = str(Path(chosen.include_path).absolute())
        with naming("evaluation.include_path"):
            there = Path(chosen.include_path).is_dir()
        if not there:
            raise UserError(f"evaluation.include_path: there is no folder {chosen.include_path}")


def _check_batches(config: Config) -> None:
    training, ranks = config.training, config.data_parallel_ranks
    together = ranks * config.workers
    share = training.local_batch_size * together
    if training.global_batch_size % share:
        raise UserError(
            f"training.global_batch_size {training.global_batch_size} must be a multiple of "
            f"{_counted(config.workers, 'worker')} x {_counted(ranks, 'data-parallel rank')} x "
            f"local_batch_size {training.local_batch_size} = {share}; {_batches_that_fit(training, together)}"
        )


def _batches_that_fit(training: Training, together: int) -> str:
    """Names batches that fit, for ranks of which there are `together` in all workers."""
    batch = training.global_batch_size
    smaller = range(training.local_batch_size, 0, -1)
    if local := [size for size in smaller if batch % (size * together) == 0][:3]:
        return f"local_batch_size {_either(local)} would fit"
    share = training.local_batch_size * together
    around = [size for size in (batch // share * share, (batch // share + 1) * share) if size]
    return f"global_batch_size {_either(around)} would fit"


def _either(numbers: Sequence[int]) -> str:
    """Numbers as alternatives: `4, 2 or 1`."""
    return " or ".join(filter(None, [", ".join(map(str, numbers[:-1])), str(numbers[-1])]))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"
