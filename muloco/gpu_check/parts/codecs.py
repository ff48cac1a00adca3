"""Speed of the codecs."""

from muloco.gpu_check.row import Part, Row

PART = Part(
    "codecs",
    "speed of the codecs beside a copy",
    (
        Row(
            name="codec_rates",
            what="encode and decode of every kind of codec on the pieces of 150M, beside a copy",
            where=("outer/codecs/",),
            command="`python benchmarks/compression.py codecs --device cuda`",
            check="codecs:rates",
            seconds=25,
            limit=120,
            alone=True,
        ),
    ),
)
