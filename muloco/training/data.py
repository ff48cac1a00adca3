"""A config's data, prepared."""

from muloco.data.cache import default_cache
from muloco.data.corpus import Document
from muloco.data.errors import BadRecord, DataError, Skipped
from muloco.data.prepare import TrainingData, prepare
from muloco.data.prepared import DamagedCacheError
from muloco.data.sources import Source, is_hub, open_source
from muloco.training.config import Config
from muloco.training.load import ConfigError


def prepare_data(config: Config) -> TrainingData:
    """What the run of a resolved config trains on, made now as far as the cache has it not.

    Raises:
        ConfigError: the data cannot be used so, a rank of a worker has no document of its own, an entry of the cache is
            damaged, or the cache cannot be written to; in one line that says what to change.
    """
    data = config.data
    try:
        prepared = prepare(
            data.sources,
            weights=data.weights,
            text_field=data.text_field,
            tokenizer=data.tokenizer,
            vocabulary=data.vocabulary,
            validation=data.validation,
            strict=data.strict,
            ahead=data.prepare,
            held_out_sequences=config.validation.sequences,
            seq_len=config.training.seq_len,
        )
        _check_shares(config, prepared)
    except (DataError, DamagedCacheError) as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(
            f"the data cannot be prepared: {error} (its cache is {default_cache()}; MULOCO_CACHE names another one)"
        ) from error
    return prepared


def _check_shares(config: Config, data: TrainingData) -> None:
    """Checks that the documents of each source suffice for all data-parallel ranks of all workers. Data sets on the hub
    are taken to be large enough."""
    workers, ranks = config.workers, config.data_parallel_ranks
    shares = workers * ranks
    for one in data.prepared:
        _check_share(one.corpus, min(shares, one.sizes["train"].documents), workers, ranks)
    for name in data.streamed:
        if not is_hub(name):
            source = open_source(name, config.data.text_field)
            served = _served(source, shares, hold_out=data.hold_out, strict=config.data.strict)
            _check_share(name, served, workers, ranks)


def _check_share(source: str, served: int, workers: int, ranks: int) -> None:
    if served < workers * ranks:
        raise ConfigError(
            f"data.corpus {source} has documents for {served} shares, but {workers} workers x {ranks} data-parallel "
            f"ranks are {workers * ranks} shares; take fewer of them (fault_tolerance.group_size, "
            "parallelism.data_parallel_*_degree), or more documents"
        )


def _served(source: Source, shares: int, *, hold_out: bool, strict: bool) -> int:
    """How many of the shares of a streamed source find a text in it (see `muloco.data.text_stream`); reads only as much
    as it needs to know that all of them do."""
    skipped = Skipped(strict=strict, quiet=True)
    reading, served, record = source.read(skipped), set[int](), 0
    while len(served) < shares:
        try:
            raw = next(reading)
        except StopIteration:
            break
        if record % shares not in served:
            try:
                text = raw.text()
            except BadRecord as problem:
                skipped.skip(raw.where, str(problem))
            else:
                if not hold_out or Document("", text).split == "train":
                    served.add(record % shares)
        record += 1
    return len(served)
