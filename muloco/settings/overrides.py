"""`--section.field value` words on top of a config. Needs nothing but Python; only the help needs tyro."""

import copy
from collections.abc import Iterable, Sequence

from muloco.errors import UserError
from muloco.settings import values
from muloco.settings.config import Config
from muloco.settings.fields import field_types, set_field
from muloco.settings.other_names import hint
from muloco.settings.paper_forms import settle


def apply_overrides(config: Config, overrides: Sequence[str], *, prog: str = "muloco train CONFIG") -> Config:
    """A copy of `config` with `--section.field value` words applied.

    Raises:
        UserError: a name is unknown (the message suggests a similar one), or a value is not allowed.
    """
    if "--help" in overrides:
        show_help(config, prog=prog)
    changed = copy.deepcopy(config)
    settle(changed)
    for name, words in by_name(overrides).items():
        try:
            set_field(changed, name, values.read(field_types()[name], words))
        except values.BadValue as error:
            raise UserError(f"--{name} {error}") from None
    settle_length(changed, overrides)
    return changed


def by_name(words: Sequence[str]) -> dict[str, list[str]]:
    """Words of a command line by the field that they belong to; of a field that is given twice, the last ones.

    Raises:
        UserError: a word belongs to no option, or there is no such option.
    """
    by_field: dict[str, list[str]] = {}
    last: list[str] | None = None
    for word in words:
        if word.startswith("--"):
            option, *last = word.split("=", 1)
            name = option[2:].replace("-", "_")
            if name not in field_types():
                raise UserError(f"unknown option {option}; {hint(name, field_types())}")
            by_field[name] = last
        elif last is None:
            raise UserError(f"unexpected word {word!r}: options are --section.field value")
        else:
            last.append(word)
    return by_field


def show_help(config: Config, *, prog: str) -> None:
    """Prints all fields with the values of a config, and exits."""
    import tyro

    tyro.cli(
        Config, default=config, args=["--help"], prog=prog, use_underscores=True, config=(tyro.conf.FlagConversionOff,)
    )


def settle_length(config: Config, words: Iterable[str]) -> None:
    """Lets the one of training.steps and training.tokens that is among the words of the command line decide: the other
    is opened in the config, to be derived from it."""
    named = {word.split("=", 1)[0] for word in words}
    steps, tokens = "--training.steps" in named, "--training.tokens" in named
    if steps and not tokens and config.training.steps is not None:
        config.training.tokens = None
    if tokens and not steps and config.training.tokens is not None:
        config.training.steps = None
