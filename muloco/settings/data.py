"""The text to train on, and its tokenizer."""

from dataclasses import dataclass

from muloco.errors import UserError
from muloco.settings.annotations import Count, MayChange, Positive, Text
from muloco.settings.section import Origins, Section

EMBEDDED = "embedded"
"""Name of the source, and of the tokenizer, that need no files: the standard library of the running Python."""
HUB = "hf:"
"""Start of the name of a source on the Hugging Face hub."""


@dataclass(kw_only=True, slots=True)
class Data(Section):
    """Text to train on; docs/data.md says more."""

    corpus: Text | tuple[Text, ...] = EMBEDDED
    """A file or folder (jsonl, txt, both also .gz and .zst; parquet), `hf:OWNER/NAME[:CONFIG][@SPLIT]` on the Hugging
    Face hub, or `embedded`: the sources of the running Python's standard library. Several make a mixture."""
    weights: tuple[Positive, ...] | None = None
    """Share of the sequences that comes from each source of a mixture. None: in proportion to size, in tokens or, when
    streaming, in bytes."""
    text_field: Text = "text"
    """Field or column that holds the text."""
    tokenizer: Text = EMBEDDED
    """Folder with a Hugging Face tokenizer.json, or `embedded`: trained on the embedded corpus."""
    vocabulary: Count = 2048
    """Number of entries of the embedded tokenizer; at most the vocabulary of the model."""
    validation: Text | None = None
    """Source of the held-out set. None: about 5 % of the documents of the corpus, chosen by their hash."""
    predict_bos: bool = False
    """Whether the EOS of a document is an input whose label is the BOS of the next document, in training and in
    validation, as in the paper's stream. False: a label always belongs to the same document as its input."""
    strict: MayChange[bool] = False
    """Refuse broken records and empty files, instead of skipping them with messages that name and count them."""
    prepare: bool | None = None
    """Tokenize everything once before training, into a cache. False: read and tokenize while training (streaming).
    Derived: True, unless a source is on the hub."""
    shuffle_buffer: Count = 1024
    """Size of the shuffle buffer of each rank when streaming, in sequences."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The names in `corpus`, be it one or several."""
        return (self.corpus,) if isinstance(self.corpus, str) else self.corpus

    def complete(self, origins: Origins) -> None:
        """Derives what is open.

        Raises:
            UserError: the settings of this section cannot be combined.
        """
        if not self.sources:
            raise UserError("data.corpus names no source")
        hub = any(map(is_hub, self.sources))
        self.derive("prepare", not hub, f"{'a' if hub else 'no'} source of data.corpus is on the hub", origins)
        if self.weights is not None and len(self.weights) != len(self.sources):
            raise UserError(f"data.weights has {len(self.weights)} entries, data.corpus has {len(self.sources)}")
        if self.weights is None and len(self.sources) > 1 and hub and not self.prepare:
            raise UserError(
                "data.weights is needed: the size of a data set on the hub is not known while it is streamed"
            )


@dataclass(kw_only=True, slots=True)
class ResolvedData(Data):
    prepare: bool


def is_hub(source: str) -> bool:
    """Whether a source is a data set on the Hugging Face hub."""
    return source.startswith(HUB)
