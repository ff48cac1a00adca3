"""The section `compression`: how pseudogradients travel between workers.

Fields that belong to a codec (`bits`, `fraction`, ...) are those of the registered codecs (`muloco.outer.codecs`), so
that a new codec's settings are fields here without a change of this file.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from muloco.outer.codecs import KINDS, Codec, build_codec, codec_class, codec_settings, kinds_with
from muloco.settings.annotations import Positive, Share
from muloco.settings.section import Origins, Section

if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[KINDS]
Class = TypeVar("Class", bound=type)


def _with_codecs(section: Class) -> Class:
    """Adds the settings of the codecs to the fields of a section, behind `kind`, and their help to its docstring, where
    `--help` looks for it. A setting that a codec needs is None until it is derived."""
    annotations = {"kind": section.__annotations__["kind"]}
    texts = {"kind": " ".join(f"{kind}: {codec_class(kind).about}." for kind in KINDS)}
    for name, setting in codec_settings().items():
        open_at_first = setting.config_default is None
        annotations[name] = setting.annotation | None if open_at_first else setting.annotation
        setattr(section, name, setting.config_default)
        derived = "" if setting.derived is None else f" Derived: {setting.derived}."
        texts[name] = f"{setting.help} For {', '.join(kinds_with(name))}.{derived}"
    section.__annotations__ = annotations | section.__annotations__
    section.__doc__ = "\n".join(
        [f"{section.__doc__}\n\nArgs:", *(f"    {name}: {text}" for name, text in texts.items())]
    )
    return section


@dataclass(kw_only=True, slots=True)
@_with_codecs
class Compression(Section):
    """How pseudogradients travel between workers; docs/compression.md says more."""

    kind: Kind = "none"
    reduce: Literal["reselect", "gather", "requantize"] = "reselect"
    """reselect: the owner of each part encodes the mean again, so that 2 (K - 1) / K payloads leave a worker. gather:
    every worker gets every payload, and the mean is exact, but K - 1 payloads leave a worker. requantize: as gather,
    but the mean is encoded and decoded once more, as in the paper's quantized runs; it saves no bytes."""
    error_feedback: bool = False
    """Error feedback: what compression loses in a sync, the residual, is added in the next one."""
    error_decay: Share = 0.9
    """Share of the residual that is kept (beta)."""
    error_alpha: Share = 1.0
    """Share of the decoded payload that is subtracted from the next residual (alpha)."""
    error_gain: Positive = 1.0
    """Factor on a pseudogradient before the residual is added. The paper's code has outer_optimizer.lr here as well as
    in the outer step, so that it acts twice on what is compressed."""
    skip_norms: bool = True
    """Norms travel as fp32."""
    skip_embeddings: bool = False
    """Token embedding and output head travel as fp32."""

    def complete(self, origins: Origins) -> None:
        """Derives the settings of the codec that are open."""
        for name, (value, origin) in codec_class(self.kind).derive(self._of_codecs()).items():
            self.derive(name, value, origin, origins)

    def codec(self) -> Codec:
        """The codec that the section, once it is complete, describes.

        Raises:
            ValueError: a setting is not one of this kind, or is out of range.
        """
        return build_codec(self.kind, **self._of_codecs())

    def _of_codecs(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in codec_settings()}
