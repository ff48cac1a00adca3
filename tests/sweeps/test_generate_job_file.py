"""The script generator of one run, where users of the paper's repository know it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from muloco.settings.load import CHECKOUT

SPEC = importlib.util.spec_from_file_location("generate_job_file", CHECKOUT / "generate_job_file.py")
CONFIG = ("--config-file", "config/diloco/2x_4gpu_muloco.py")


@pytest.fixture
def generate(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    assert SPEC is not None and SPEC.loader is not None
    module = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(module)

    def run(*words: str) -> tuple[int, str]:
        status = module.main(words)
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def test_a_script_on_standard_output(generate: Callable[..., tuple[int, str]]) -> None:
    words = ("--job-name", "k2", "--gpus-per-node", "4", "--qos", "high", "--optimizer.lr", "0.03")
    status, script = generate(*CONFIG, *words)
    assert status == 0 and script.startswith("#!/bin/bash\n#SBATCH --job-name=k2\n#SBATCH --nodes=2\n")
    assert "--qos=high" in script and "--optimizer.lr 0.03" in script


def test_a_file_is_written_and_no_other_one_overwritten(
    generate: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    file = tmp_path / "jobs" / "x.sh"
    words = (*CONFIG, "--output-file", str(file))
    assert generate(*words)[0] == 0 and generate(*words)[0] == 0
    written = file.read_text()
    status, said = generate(*words, "--qos", "high")
    assert status == 2 and "is there already and differs" in said and file.read_text() == written


def test_what_is_probably_not_meant_is_said_beside_the_script(
    generate: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    file = tmp_path / "k2.sh"
    status, said = generate(*CONFIG, "--gpus-per-node", "8", "--memory", "0", "--output-file", str(file))
    assert status == 0 and file.exists()
    assert "--data.corpus" in said and "--data.tokenizer" in said
    assert "one CPU of each node (cpus_per_node), the partition's default time (time)" in said
    asked = ("--gpus-per-node", "8", "--memory", "0", "--cpus-per-node", "0", "--time", "24:00:00")
    text = tmp_path / "books.txt"
    text.write_text("text\n")
    asked = (*asked, "--data.corpus", str(text), "--output-file", str(tmp_path / "x.sh"))
    status, said = generate(*CONFIG, *asked)
    assert status == 0 and "1 of 1 jobs have the embedded tokenizer, with 2,048 of the 128,256 entries" in said
    small = ("--model.flavor", "tiny", "--output-file", str(tmp_path / "y.sh"))
    assert generate(*CONFIG, *asked, *small) == (0, "")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--use-ddp",), "--use-ddp is not needed any more: the config says it"),
        (("--extra-args", "optimizer.lr=0.1"), "give --section.field value words instead"),
        (("--optimizer.lrr", "1"), "did you mean --optimizer.lr?"),
        (("--gpus-per-node", "3"), "does not fill whole nodes of 3 devices"),
    ],
)
def test_what_it_cannot_use_it_says(
    words: tuple[str, ...], reason: str, generate: Callable[..., tuple[int, str]]
) -> None:
    status, said = generate(*CONFIG, *words)
    assert status == 2 and reason in said
