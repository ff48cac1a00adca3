"""The settings of each kind of codec (`muloco.outer.codecs`). Needs nothing but Python."""

from collections.abc import Collection

from muloco.suggest import allowed

DENSE = ("none", "bf16")
QUANTIZED = ("linear", "statistical", "lloyd_max")
KINDS = (*DENSE, *QUANTIZED, "topk")
GRANULARITIES = ("tensor", "row")
VALUES = {"fp32": "none", "bf16": "bf16", **{kind: kind for kind in QUANTIZED}}
"""Formats of top-k's values, and the kind of codec for each."""


def check_settings(
    kind: str,
    *,
    bits: int | None = None,
    granularity: str = "tensor",
    fraction: float | None = None,
    values: str | None = None,
) -> None:
    """Checks the arguments of `muloco.outer.codecs.build_codec`, which describes them.

    Raises:
        ValueError: the kind is unknown, or a setting is out of range, missing, or not one of this kind.
    """
    _refuse_unknown(kind, KINDS, "compression kind")
    _refuse_unknown(granularity, GRANULARITIES, "granularity")
    if kind == "topk":
        _check_topk(bits, granularity, fraction, values)
        return
    _refuse_given("fraction", fraction, kind, ["topk"])
    _refuse_given("values", values, kind, ["topk"])
    if kind in DENSE:
        _refuse_given("bits", bits, kind, [*QUANTIZED, "topk"])
        _refuse_rows(granularity, kind)
    else:
        _check_bits(bits, kind)


def _check_topk(bits: int | None, granularity: str, fraction: float | None, values: str | None) -> None:
    _refuse_rows(granularity, "topk")
    if not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise ValueError(f"topk needs the fraction of elements to keep, above 0 and at most 1; got {fraction!r}")
    values = "fp32" if values is None else values
    _refuse_unknown(values, VALUES, "topk values")
    if values in QUANTIZED:
        _check_bits(bits, values)
    elif bits is not None:
        raise ValueError(
            f"kind 'topk' takes bits only with values linear, statistical or lloyd_max; got values {values!r}"
        )


def _check_bits(bits: int | None, kind: str) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise ValueError(f"{kind} needs bits, a whole number from 1 to 8; got {bits!r}")


def _refuse_unknown(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}: {allowed(str(name), known)}")


def _refuse_given(setting: str, value: object, kind: str, takers: list[str]) -> None:
    if value is not None:
        raise ValueError(f"kind {kind!r} takes no {setting}, got {value!r}; allowed for {', '.join(takers)}")


def _refuse_rows(granularity: str, kind: str) -> None:
    if granularity == "row":
        raise ValueError(f"kind {kind!r} has no granularity 'row'; allowed for {', '.join(QUANTIZED)}")
