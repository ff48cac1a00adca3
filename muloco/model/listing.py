"""The table of all flavors, and what each supports. Needs nothing but Python."""

from muloco.model.architecture import Flavor, all_architectures

COLUMNS = ("flavor", "parameters", "active", "vocabulary", "TP", "PP", "hub")
_SIZES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def rows() -> list[tuple[str, ...]]:
    """Returns a row of the `COLUMNS` for each flavor, in the order of their registration."""
    return [_row(flavor) for known in all_architectures() for flavor in known.flavors]


def _row(flavor: Flavor) -> tuple[str, ...]:
    return (
        flavor.alias,
        _short(flavor.parameters),
        _short(flavor.active_parameters),
        f"{flavor.vocabulary:,}",
        _yes(flavor.undivided is None),
        _yes(not flavor.is_tied),
        _yes(flavor.record.huggingface is not None),
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _short(number: int) -> str:
    """Three digits: `30.5B`."""
    unit, name = next((unit, name) for unit, name in _SIZES if number >= unit)
    return f"{number / unit:#.3g}".rstrip(".") + name
