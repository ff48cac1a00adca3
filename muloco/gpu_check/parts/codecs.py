"""Rows for the speed of the codecs."""

from muloco.gpu_check.row import Part, Row

PART = Part(
    "codecs",
    "speed of the codecs, compared with a copy",
    (
        Row(
            name="codec_rates",
            what="speed of every kind of codec on the tensors of the 150M model, compared with a copy",
            where=("outer/codecs/",),
            command="run `python benchmarks/compression.py codecs --device cuda`",
            check="codecs:rates",
            seconds=25,
            limit=120,
            alone=True,
        ),
    ),
)
