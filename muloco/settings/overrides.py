"""Fields that change because of others on the command line. Needs nothing but Python."""

from collections.abc import Iterable

from muloco.settings.config import Config


def settle_length(config: Config, words: Iterable[str]) -> None:
    """Lets the one of training.steps and training.tokens that is on the command line decide; the other is derived from
    it.

    Args:
        config: with the words applied; changed in place.
        words: of the command line, `--section.field value`.
    """
    named = {word.split("=", 1)[0] for word in words}
    steps, tokens = "--training.steps" in named, "--training.tokens" in named
    if steps and not tokens and config.training.steps is not None:
        config.training.tokens = None
    if tokens and not steps and config.training.tokens is not None:
        config.training.steps = None
