"""A config's data, prepared."""

from muloco.data.errors import DataError
from muloco.data.prepare import TrainingData, prepare
from muloco.training.config import Config
from muloco.training.load import ConfigError


def prepare_data(config: Config) -> TrainingData:
    """What the run of a resolved config trains on, made now as far as the cache has it not.

    Raises:
        ConfigError: the data cannot be used so; in one line that says what to change.
        DamagedCacheError: as `muloco.data.prepare.prepare`.
    """
    data = config.data
    try:
        return prepare(
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
    except DataError as error:
        raise ConfigError(str(error)) from error
