"""Resolves a config: from what the user chose to what will run. Values that concern several sections are derived and
checked here; what concerns a single section is in its file (`muloco.settings`).
"""

import copy
import functools
import hashlib
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from muloco.data.sources import open_source
from muloco.data.tokenizer import SMALLEST_VOCABULARY, DocumentTokenizer
from muloco.errors import UserError, naming
from muloco.model.architecture import NO_SCORES, Flavor
from muloco.model.flavors import flavor
from muloco.model.initial import check_initial
from muloco.model.stepped import stepped
from muloco.optim.rules import RULES
from muloco.outer.codecs import codec_class
from muloco.outer.loop.fragments import Schedule, by_modules, by_number, module_of
from muloco.settings.annotations import LONGEST_NAME
from muloco.settings.config import Config, ResolvedConfig
from muloco.settings.data import EMBEDDED, is_hub
from muloco.settings.fields import section_class
from muloco.settings.paper_forms import settle
from muloco.settings.section import Origins
from muloco.settings.training import Training
from muloco.settings.values import checked

WEIGHT_DECAY_BATCH = 512  # sequences at which the flavors' weight decays hold (PAPER 2.4)
Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """A resolved config, with the origins of its derived values."""

    config: ResolvedConfig
    derived: Mapping[str, str]
    """The origin of each derived value, by the full name of its field."""
    notes: Sequence[str]
    """Remarks on settings that can run, but may be unintended."""


def resolve(chosen: Config, *, config_name: str = "run") -> ResolvedConfig:
    """Returns the config of `resolution`, which takes the same arguments and raises the same errors."""
    return resolution(chosen, config_name=config_name).config


def resolution(chosen: Config, *, config_name: str = "run") -> Resolution:
    """A copy of a config, as loaded, in which nothing is left to derive, and how its values were derived. Fields that
    are not None stay as they are; a run without a name is named after `config_name`.

    Raises:
        UserError: values or combinations that cannot run, in one line that says what is allowed.
    """
    config = copy.deepcopy(chosen)
    if isinstance(config, ResolvedConfig):  # once more
        config.optimizer.open_usual_rules()
    settle(config)
    config.metrics.check()
    config.evaluation.check()
    config.chaos.check()
    origins: Origins = {}
    name = f"{_usable(config_name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    config.run.derive("name", name, "the name of the config file, and the time", origins)
    _derive(config, origins)
    resolved = _decided(ResolvedConfig, config)
    size = flavor(resolved.model.flavor)
    _check_length(resolved, size)
    _check_data(resolved, size)
    _check_roles(resolved, size)
    _check_fragments(resolved, size)
    _check_compression(resolved, size)
    if resolved.chaos.interval_seconds is not None and resolved.worker_processes == 1:
        raise UserError("chaos.interval_seconds needs fault_tolerance.transport torchft and at least two workers")
    _check_tensor_parallel(resolved, size)
    _check_pipeline(resolved, size)
    _check_batches(resolved)
    _check_evaluation(resolved, size)
    _check_titan(resolved)
    if resolved.checkpoint.initial is not None:
        resolved.checkpoint.initial = str(Path(resolved.checkpoint.initial).absolute())
        check_initial(Path(resolved.checkpoint.initial), size)
    return Resolution(config=resolved, derived=origins, notes=_notes(resolved))


def _check_titan(config: ResolvedConfig) -> None:
    """Notes the digest of the file with a function titan(config); its path becomes absolute."""
    training = config.training
    if training.titan is None:
        if training.titan_sha256 is not None:
            raise UserError("training.titan_sha256 is the digest of the file of training.titan, which is not set")
        return
    file = Path(training.titan).absolute()
    with naming("training.titan"):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if training.titan_sha256 not in (None, digest):
        raise UserError(
            f"training.titan: {file} is not what it was when the run began (SHA-256 {training.titan_sha256[:16]}, now "
            f"{digest[:16]}); give the path of the same file with --training.titan, or start a new run"
        )
    training.titan, training.titan_sha256 = str(file), digest


def completed(stored: Config, *, where: str) -> ResolvedConfig:
    """The resolved config of a run that has been started, from the entry `resolved` of its config.json; `where` names
    the file in messages. What earlier versions have left open is derived. Its data and other files need not exist any
    more.

    Raises:
        UserError: it is not a resolved config.
    """
    config = copy.deepcopy(stored)
    if config.run.name is None or config.training.steps is None or config.fault_tolerance.semi_sync_method is None:
        raise UserError(f"{where}: its resolved config leaves values open")
    _derive(config, {})
    return _decided(ResolvedConfig, config)


def _derive(config: Config, origins: Origins) -> None:
    try:
        size = flavor(config.model.flavor)
    except ValueError as error:
        raise UserError(str(error)) from None
    if config.model.flavor != size.name:
        origins["model.flavor"] = f"the full name of {config.model.flavor}"
        config.model.flavor = size.name
    config.optimizer.complete(origins)
    _derive_method(config, origins)
    config.data.complete(origins)
    config.fault_tolerance.complete(origins)
    config.outer_optimizer.complete(str(config.fault_tolerance.semi_sync_method), origins)
    config.compression.complete(origins)
    config.training.complete(size.token_budget, f"of flavor {size.alias}", origins)
    sharded = config.parallelism.data_parallel_shard_degree > 1 or config.parallelism.tensor_parallel_degree > 1
    origin = "bfloat16 where a worker is sharded, else autocast (PAPER 11)"
    config.training.derive("precision", "bfloat16" if sharded else "autocast", origin, origins)
    _derive_weight_decay(config, size, origins)


def _decided(section: type[Section], values: Any) -> Section:
    """A section of `ResolvedConfig` with the values of that of a `Config`, none of which may be open any more."""
    fields = {}
    for name, annotation in get_type_hints(section, include_extras=True).items():
        value = getattr(values, name)
        kind = section_class(annotation)
        fields[name] = checked(annotation, value) if kind is None else _decided(kind, value)
    return section(**fields)


def _notes(config: ResolvedConfig) -> list[str]:
    """Remarks on a config. A warm-up may be cut off, as a few steps of a long run's config are a usual trial."""
    notes = []
    warmup, steps, weights = config.lr_scheduler.warmup_steps, config.training.steps, config.data.weights
    if warmup > steps:
        notes.append(
            f"lr_scheduler.warmup_steps {warmup} is more than the {steps} steps of the run: the learning rate rises "
            "until the end"
        )
    schedule = config.lr_scheduler.total_steps
    if schedule is not None and schedule < min(warmup, steps):
        notes.append(
            f"lr_scheduler.warmup_steps {warmup} is more than lr_scheduler.total_steps {schedule}: the learning rate "
            f"rises for {schedule} steps and stays there"
        )
    if weights is not None and not math.isclose(total := math.fsum(weights), 1, rel_tol=1e-6):
        shares = ", ".join(f"{weight / total:.4g}" for weight in weights)
        notes.append(f"data.weights sum to {total:g}, not to 1; the shares of the sources are {shares}")
    initial = config.checkpoint.initial
    if initial is not None and config.data.tokenizer == EMBEDDED and _is_other(Path(initial), config.data.vocabulary):
        notes.append(
            f"checkpoint.initial {initial} has a tokenizer of its own, but data.tokenizer is {EMBEDDED}: its weights "
            f"would read other tokens than they were trained on; --data.tokenizer {initial} takes it"
        )
    return notes


def _usable(name: str) -> str:
    """Returns the characters of a config file's name that the name of a run may have."""
    return re.sub(r"[^A-Za-z0-9._+=,-]+", "-", name)[: LONGEST_NAME - len("-20260101-000000")].lstrip("-.") or "run"


def _derive_method(config: Config, origins: Origins) -> None:
    """Derives how the workers are synced, and the constants of primal averaging (GPA, arXiv 2512.17131)."""
    ft, optimizer = config.fault_tolerance, config.optimizer
    averages = optimizer.name == "GPA"
    ft.derive("semi_sync_method", "gpa" if averages else "diloco", f"optimizer.name {optimizer.name}", origins)
    if averages != (ft.semi_sync_method == "gpa"):
        raise UserError(
            "optimizer.name GPA and fault_tolerance.semi_sync_method gpa go together; got "
            f"{optimizer.name} and {ft.semi_sync_method} (without the latter, it follows from the former)"
        )
    if averages:
        origin = f"0.9967^(32 / {ft.sync_steps}) for fault_tolerance.sync_steps {ft.sync_steps}"
        optimizer.derive("mu_x", 0.9967 ** (32 / ft.sync_steps), origin, origins)
        optimizer.derive("mu_y", 0.7, "the published value for every interval", origins)
    elif optimizer.mu_x is not None or optimizer.mu_y is not None:
        raise UserError(f"optimizer.mu_x and optimizer.mu_y belong to optimizer.name GPA; got {optimizer.name}")


def _derive_weight_decay(config: Config, size: Flavor, origins: Origins) -> None:
    """Derives the weight decay by the paper's rule (arXiv 2505.23725): in proportion to the batch of one worker."""
    rule = config.optimizer.matrix.rule
    muon = rule in RULES and RULES[rule].takes == "matrices"
    best = size.muon_decay if muon else size.adamw_decay
    batch, workers = config.training.global_batch_size, config.workers
    origin = (
        f"{best:g} (the paper's best for {'Muon' if muon else 'AdamW'} at {size.alias} and {WEIGHT_DECAY_BATCH} "
        f"sequences) x ({batch} sequences / {workers} worker{'s' * (workers > 1)}) / {WEIGHT_DECAY_BATCH}"
    )
    config.optimizer.derive("weight_decay", best * batch / workers / WEIGHT_DECAY_BATCH, origin, origins)


def _check_roles(config: ResolvedConfig, size: Flavor) -> None:
    if config.optimizer.name == "SGD":
        return
    try:
        stepped(size, config.optimizer.rules(), config.optimizer.choices())
    except ValueError as error:
        raise UserError(f"model.flavor {size.alias} with this optimizer: {error}") from None


def _check_data(config: ResolvedConfig, size: Flavor) -> None:
    """Checks that data and tokenizer are there and fit; paths become absolute, so that a run resumes from anywhere."""
    data = config.data
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


def _is_other(folder: Path, vocabulary: int) -> bool:
    """Whether a folder has a tokenizer that is not the embedded one of so many entries."""
    if not (folder / "tokenizer.json").is_file():
        return False
    try:
        return _entries(folder) != vocabulary
    except UserError:  # data.tokenizer would say why
        return True


@functools.cache
def _entries(tokenizer: Path) -> int:
    """How many entries a tokenizer has. A large one takes a second to load, and a sweep asks for each of its runs."""
    return DocumentTokenizer(tokenizer).vocab_size


def _absolute(source: str) -> str:
    return source if source == EMBEDDED or is_hub(source) else str(Path(source).absolute())


def _check_fragments(config: ResolvedConfig, size: Flavor) -> None:
    ft = config.fault_tolerance
    modules = ft.module_fqns_per_model_fragment
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


def _check_compression(config: ResolvedConfig, size: Flavor) -> None:
    chosen = config.compression
    if chosen.kind != "none" and config.fault_tolerance.semi_sync_method == "none":
        raise UserError(
            f"compression.kind {chosen.kind} has no pseudogradients to compress: fault_tolerance.semi_sync_method is "
            "none; choose diloco, or set no compression"
        )
    if chosen.kind == "none" and chosen.error_feedback:
        raise UserError("compression.error_feedback needs a lossy compression.kind; none is lossless")
    keeps = codec_class(chosen.kind).keeps
    if keeps and chosen.reduce == "requantize":
        raise UserError(
            f"compression.reduce requantize is for quantizers: of the mean of {chosen.kind} it would keep only {keeps}"
            "; choose gather, the exact mean as in the paper's top-k, or reselect"
        )
    try:
        codec = chosen.codec()
    except ValueError as error:
        raise UserError(f"compression: {error}") from None
    skipped = size.tables if chosen.skip_embeddings else ()
    if obstacle := codec.obstacle({name: shape for name, shape in size.shapes.items() if name not in skipped}):
        raise UserError(f"compression: {obstacle}")


def _check_length(config: ResolvedConfig, size: Flavor) -> None:
    if size.longest is not None and config.training.seq_len > size.longest:
        raise UserError(
            f"training.seq_len {config.training.seq_len}: flavor {size.alias} takes at most {size.longest} tokens"
        )


def _check_tensor_parallel(config: ResolvedConfig, size: Flavor) -> None:
    degree = config.parallelism.tensor_parallel_degree
    if degree > 1 and size.undivided is not None:
        raise UserError(f"parallelism.tensor_parallel_degree {degree}: flavor {size.alias} {size.undivided}; choose 1")
    tokens = {"tokens of training.seq_len, which the norms are divided over": config.training.seq_len}
    for what, number in {**size.divided, **tokens}.items():
        if number % degree:
            raise UserError(f"parallelism.tensor_parallel_degree {degree} must divide the {number} {what}")


def _check_pipeline(config: ResolvedConfig, size: Flavor) -> None:
    """Checks what a pipeline of stages does not have: stages without layers, and fragments that name modules."""
    degree = config.parallelism.pipeline_parallel_degree
    if degree == 1:
        return
    layers = len({module_of(name) for name in size.shapes if name.startswith("layers.")})
    if degree > layers:
        raise UserError(
            f"parallelism.pipeline_parallel_degree {degree} is more than the {layers} layers of flavor {size.alias}"
        )
    if size.is_tied:
        raise UserError(
            f"parallelism.pipeline_parallel_degree {degree}: the head of flavor {size.alias} is its embedding, and a "
            "pipeline has them in different stages; choose 1"
        )
    if config.fault_tolerance.module_fqns_per_model_fragment is not None:
        raise UserError(
            "fault_tolerance.module_fqns_per_model_fragment names modules of the whole model, of which a stage of a "
            "pipeline has only some: with parallelism.pipeline_parallel_degree use fault_tolerance.num_fragments, into "
            "which each stage divides its own modules"
        )
    if config.optimizer.name == "GPA":
        raise UserError("optimizer.name GPA needs parallelism.pipeline_parallel_degree 1")


def _check_evaluation(config: ResolvedConfig, size: Flavor) -> None:
    """Checks the tasks of an evaluation; their folder becomes absolute."""
    chosen, steps = config.evaluation, config.training.steps
    if not chosen.tasks:
        return
    if not size.one_mask:
        raise UserError(f"evaluation.tasks: {NO_SCORES.format(flavor=size.alias)}")
    for at in chosen.at:
        if isinstance(at, int) and at > steps:
            raise UserError(f"evaluation.at: the run has {steps} steps; got {at} (shares have a point, such as 1.0)")
    for degree in ("tensor_parallel_degree", "pipeline_parallel_degree"):
        if getattr(config.parallelism, degree) > 1:
            raise UserError(
                f"evaluation.tasks needs parallelism.{degree} 1; evaluate checkpoints instead (muloco eval)"
            )
    if chosen.include_path is not None:
        chosen.include_path = str(Path(chosen.include_path).absolute())
        with naming("evaluation.include_path"):
            there = Path(chosen.include_path).is_dir()
        if not there:
            raise UserError(f"evaluation.include_path: there is no folder {chosen.include_path}")


def _check_batches(config: ResolvedConfig) -> None:
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
