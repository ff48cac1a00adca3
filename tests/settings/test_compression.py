"""The section `compression` has the kinds and the settings of the registered codecs, and nothing else knows them."""

import dataclasses

import pytest

from muloco.errors import UserError
from muloco.model.flavors import flavor
from muloco.outer.codecs import KINDS, codec_class, codec_settings, default_codec
from muloco.resolve import resolve
from muloco.settings.compression import Compression
from muloco.settings.config import Config
from muloco.settings.load import apply_overrides, load_config


def test_settings_of_codecs_are_fields() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(Compression)}
    assert fields.items() >= {name: setting.config_default for name, setting in codec_settings().items()}.items()
    assert {"bits", "granularity", "fraction", "values", "rank"} <= codec_settings().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_alone_is_the_codec_with_its_derived_settings(kind: str) -> None:
    chosen, origins = apply_overrides(Config(), ["--compression.kind", kind]).compression, {}
    chosen.complete(origins)
    assert chosen.codec() == default_codec(kind)
    derived = codec_class(kind).derive({}).items()
    assert origins == {f"compression.{name}": reason for name, (_, reason) in derived}


@pytest.mark.parametrize(
    ("words", "size", "details"),
    [
        (["powersgd", "--compression.rank", "3"], "rank 3", ""),
        (["ternary", "--compression.granularity", "row"], "1.6 bits", "per row"),
        (["linear", "--compression.bits", "3", "--compression.granularity", "row"], "3 bits", "per row"),
        (["topk", "--compression.fraction", "0.02", "--compression.values", "bf16"], "2 %", "bf16 values"),
        (["bf16"], "16 bits", ""),
    ],
)
def test_words_for_reports(words: list[str], size: str, details: str) -> None:
    codec = apply_overrides(Config(), ["--compression.kind", *words]).compression.codec()
    assert (codec.size, codec.details) == (size, details)


def test_bounds_are_those_of_the_codec() -> None:
    with pytest.raises(UserError, match="compression.rank must be at least 1; got 0"):
        apply_overrides(Config(), ["--compression.kind", "powersgd", "--compression.rank", "0"])
    with pytest.raises(ValueError, match="kind 'ternary' takes no rank, got 2; allowed for powersgd"):
        apply_overrides(Config(), ["--compression.kind", "ternary", "--compression.rank", "2"]).compression.codec()


@pytest.mark.parametrize("skip", ["false", "true"])
def test_a_rank_is_at_most_the_smallest_side(skip: str) -> None:
    size = flavor("tiny")
    shapes = {name: shape for name, shape in size.shapes.items() if skip == "false" or name not in size.tables}
    side = min(min(shape) for shape in shapes.values() if len(shape) == 2)
    words = ["--model.flavor", "tiny", "--compression.kind", "powersgd", "--compression.skip_embeddings", skip]
    assert resolve(load_config("laptop/muloco", [*words, "--compression.rank", f"{side}"])).compression.rank == side
    with pytest.raises(UserError, match=rf"rank {side + 1} .* smaller side of .*; it must be from 1 to {side}$"):
        resolve(load_config("laptop/muloco", [*words, "--compression.rank", f"{side + 1}"]))
