"""Prepares the data of a config."""

from muloco.data.cache import default_cache
from muloco.data.prepare import TrainingData, prepare
from muloco.data.text_stream import check_shares
from muloco.errors import UserError
from muloco.settings.config import ResolvedConfig
from muloco.settings.data import is_hub


def prepare_data(config: ResolvedConfig, *, verify: bool = False) -> TrainingData:
    """Returns the data of a resolved config's run, which is prepared now unless it is in the cache. With `verify` the
    checksums of all files in the cache are verified.

    Raises:
        UserError: the data cannot be used in this way, has fewer documents than all workers have data-parallel ranks,
            an entry of the cache is damaged, or the cache cannot be written to; one line says what to change.
    """
    data = config.data
    try:
        prepared = prepare(
            data, held_out_sequences=config.validation.sequences, seq_len=config.training.seq_len, verify=verify
        )
        shares = config.workers * config.data_parallel_ranks
        prepared.check_shares(shares)
        for source in prepared.streamed:
            if not is_hub(source.name):  # data sets on the hub are assumed to be large enough
                check_shares(source, shares, hold_out=data.validation is None)
    except OSError as error:
        raise UserError(
            f"the data cannot be prepared: {error} (the cache is {default_cache()}; set MULOCO_CACHE for another one)"
        ) from error
    return prepared
