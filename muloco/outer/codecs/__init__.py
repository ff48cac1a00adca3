"""Codecs, which turn pieces of a pseudogradient into bytes and back.

A codec is a frozen dataclass whose fields are its settings, in a file of its own in `kinds`; `docs/extending.md` says
how to add one. This package needs nothing but Python until a codec encodes; then it needs torch, and Triton on a GPU.

The size of a payload follows from shape and settings alone. Equal pieces, and states of stateful codecs, give equal
payloads (on one device with one thread count), alone or encoded together with others, and equal payloads decode to the
same bits on every device. The host never waits for a GPU here, and no decoded result depends on an order of summation
that could vary.

Payloads are little endian. R rows are 1 at granularity `tensor`; else they are the first dimension, a piece of fewer
than two dimensions being one row. A piece without elements has a payload without bytes. Codes are packed without gaps,
least significant bit first, over all rows: ceil(n b / 8) bytes of n codes of b bits (`packing.pack`). Indices of more
than 8 bits: first the lowest byte of each, then the second, ...; then the rest as codes (`packing.pack_wide`).

A piece with NaN or infinities encodes to a payload of the usual size, and decodes to something that is not finite.
Whether a piece is finite is for the exchange to tell (its header has a flag).
"""

import importlib
import pkgutil
from typing import Any

from muloco.outer.codecs import kinds
from muloco.outer.codecs.codec import REGISTRY, Codec, Setting
from muloco.settings.values import BadValue, checked, described
from muloco.suggest import allowed

__all__ = ["KINDS", "Codec", "build_codec", "codec_class", "codec_settings", "default_codec", "kinds_with", "table"]

for _module in pkgutil.iter_modules(kinds.__path__):
    importlib.import_module(f"{kinds.__name__}.{_module.name}")

KINDS = tuple(REGISTRY)


def build_codec(
    kind: str,
    *,
    bits: int | None = None,
    granularity: str = "tensor",
    fraction: float | None = None,
    **settings: Any,
) -> Codec:
    """The codec of that kind and those settings. A setting that is None is left out.

    Args:
        kind: one of `KINDS`.
        bits: 1 to 8 a code, for quantized kinds, and for `topk` with values of these kinds.
        granularity: `tensor`, one codebook a piece; or `row`, one for each index of the first dimension.
        fraction: share of the elements that `topk` keeps, above 0 and at most 1.
        settings: other settings of the kind, by name, such as `values` of `topk`; see `table`.

    Raises:
        ValueError: unknown kind, a setting out of range, one that is missing, or one that the kind does not take.
    """
    codec = codec_class(kind)
    given = {"bits": bits, "granularity": granularity, "fraction": fraction, **settings}
    known, own = codec_settings(), codec.settings()
    for name, value in given.items():
        if name not in own and value is not None and (name not in known or value != known[name].config_default):
            takers = ", ".join(kinds_with(name)) or "no kind"
            raise ValueError(f"kind {kind!r} takes no {name}, got {value!r}; allowed for {takers}")
    return codec(**{name: _checked(kind, name, setting, given.get(name)) for name, setting in own.items()})


def default_codec(kind: str) -> Codec:
    """Returns the codec of a kind with the settings that a config derives if it gives none."""
    return build_codec(kind, **{name: value for name, (value, _) in codec_class(kind).derive({}).items()})


def codec_class(kind: str) -> type[Codec]:
    """The class of a kind.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in REGISTRY:
        raise ValueError(f"unknown compression kind {kind!r}: {allowed(str(kind), KINDS)}")
    return REGISTRY[kind]


def codec_settings() -> dict[str, Setting]:
    """The settings of all kinds, by name. What several kinds have is described as the first of them does."""
    settings: dict[str, Setting] = {}
    for codec in REGISTRY.values():
        settings |= {name: setting for name, setting in codec.settings().items() if name not in settings}
    return settings


def kinds_with(setting: str) -> list[str]:
    """The kinds that have a setting of that name."""
    return [kind for kind, codec in REGISTRY.items() if setting in codec.settings()]


def table() -> list[tuple[str, str, str]]:
    """Returns the kinds as rows of a table: kind, settings, what a piece is decoded to."""
    return [(f"`{kind}`", ", ".join(codec.settings()), codec.about) for kind, codec in REGISTRY.items()]


def _checked(kind: str, name: str, setting: Setting, value: Any) -> Any:
    value = setting.default if value is None else value
    try:
        return checked(setting.annotation, value)
    except BadValue as error:
        if value is None:
            raise ValueError(f"{kind} needs {name}, {described(setting.annotation)}; got None") from None
        raise ValueError(f"{kind}: {name} {error}") from None
