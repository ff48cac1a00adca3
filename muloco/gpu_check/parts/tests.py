"""Rows for tests whose tensors a pytest plugin moves from the CPU to the GPU."""

from muloco.gpu_check.row import Part, Row

PART = Part(
    "tests",
    "the tests of optimizers, codecs and gradients, with their tensors moved to the GPU",
    (
        Row(
            name="tests_optim",
            what="the tests of the optimizers with their tensors on the GPU",
            where=("optim/",),
            command="run `python -m pytest -p muloco.gpu_check.on_device tests/optim/test_muon.py ...`",
            check="tests:optim",
            seconds=45,
            limit=150,
        ),
        Row(
            name="tests_outer",
            what="the tests of codecs, packing, residuals and digests with their tensors on the GPU",
            where=("outer/codecs/", "outer/codecs/channel.py", "outer/loop/digest.py"),
            command="run `python -m pytest -p muloco.gpu_check.on_device tests/outer/codecs/test_codecs.py ...`",
            check="tests:outer",
            seconds=45,
            limit=150,
        ),
    ),
)
