"""Training of the models that torchtitan comes with, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.model.architecture import Architecture
from muloco.resolve import resolve
from muloco.runs.folder import RunFolder
from muloco.settings.config import Config
from muloco.settings.load import load_config

from ..covering import only
from ..model.small_titan import DEBUG_SIZES, small_models  # noqa: F401 (a fixture)
from .test_longer_runs import asked, cut, learned, resumed, work  # noqa: F401 (a fixture)

SHORT = {
    "training__seq_len": 32,
    "training__steps": 4,
    "validation__sequences": 2,
    "validation__freq": 100,
    "optimizer__lr": 0.002,
}


def config_of(kind: str, root: Path, **changes: object) -> Config:
    return resolve(asked(root, model__flavor=f"small/{kind}", **{**SHORT, **changes}))


@pytest.mark.parametrize("kind", only(["llama3", "gpt_oss", "qwen3_moe"], DEBUG_SIZES))
def test_workers_agree_and_a_resume_at_an_odd_step_repeats_the_run_to_the_last_bit(
    kind: str,
    tmp_path: Path,
    work: Callable[..., RunFolder],  # noqa: F811
    small_models: Architecture,  # noqa: F811
) -> None:
    folder = work(config_of(kind, tmp_path / "run", checkpoint__interval=3))
    whole = learned(folder)
    losses = [value for _, _, value in sorted(whole["validation_loss"], key=lambda line: line[1])]
    assert losses[-1] < losses[0] - 0.02
    digests = {step: {value for _, at, value in whole["digest"] if at == step} for _, step, _ in whole["digest"]}
    assert {step: len(values) for step, values in digests.items()} == {2: 1, 4: 1}

    cut(folder, lambda line: line["step"] <= 3, step=3)
    assert learned(folder) != whole
    work(resumed(folder))
    assert learned(folder) == whole


@pytest.mark.parametrize(
    ("flavor", "message"),
    [
        ("qwen3_5/0.8B", "torchtitan's qwen3_5 needs the package fla"),
        ("flux/flux-dev", "torchtitan's flux is no decoder of text"),
        ("muse_glimmer/30B", "torchtitan's muse_glimmer needs torchtitan's SPMD backend spmd_types"),
        ("qwen3/0.6b", "did you mean qwen3/0.6B"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_reason(flavor: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(load_config("config/laptop/muloco.py", ["--model.flavor", flavor]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--training.seq_len", "8192"], "training.seq_len 8192: flavor qwen3/debugmodel takes at most 4096 tokens"),
        (
            ["--parallelism.tensor_parallel_degree", "3"],
            "tensor_parallel_degree 3 must divide the 16 heads of flavor qwen3/debugmodel",
        ),
        (
            ["--parallelism.tensor_parallel_degree", "2", "--model.flavor", "gpt_oss/20b"],
            "tensor_parallel_degree 2: flavor gpt_oss/20b has biases whose gradients torchtitan divides wrongly",
        ),
        (
            ["--parallelism.pipeline_parallel_degree", "2"],
            "pipeline_parallel_degree 2: the head of flavor qwen3/debugmodel is its embedding",
        ),
        (["--fault_tolerance.num_fragments", "99"], "10 modules make 1 to 10 fragments, not 99"),
    ],
)
def test_settings_are_checked_by_the_structure_of_the_model(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(load_config("config/laptop/muloco.py", ["--model.flavor", "qwen3/debugmodel", *options]))
