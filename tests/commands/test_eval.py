"""`muloco eval` and `muloco generate` on a checkpoint: what they write, and what they refuse."""

import json
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval")

from muloco.cli import main
from muloco.evals.names import SUITES, expand
from muloco.training.trained import find_trained

from ..evals.local_tasks import NAMES, write_tasks
from ..run_on_disk import add_checkpoint, random_weights, write_run


def test_writes_lm_evals_json_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", {"anchor": random_weights()})
    tasks = write_tasks(tmp_path / "tasks", documents=6)
    words = ["eval", f"{run.root}/checkpoint/step-3", "--tasks", ",".join(NAMES), "--include-path", str(tasks)]
    assert main([*words, "--output", str(tmp_path / "a.json"), "--limit", "4"]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["n-samples"]["local_choice"] == {"original": 6, "effective": 4}
    assert set(found["results"]) == set(NAMES) and found["muloco"]["step"] == 3
    accuracies = [found["results"]["local_choice"]["acc_norm,none"], found["results"]["local_last_word"]["acc,none"]]
    assert found["muloco"]["mean_accuracy"] == pytest.approx(sum(accuracies) / 2)
    shown = capsys.readouterr().out
    assert f"{found['results']['local_rolling']['bits_per_byte,none']:.4f}" in shown and "mean" in shown
    assert main([*words, "--output", str(tmp_path / "a.json")]) == 2
    assert "not overwritten" in capsys.readouterr().err


def test_takes_the_newest_whole_checkpoint_and_the_average(tmp_path: Path) -> None:
    anchor, average = random_weights(0), random_weights(1)
    run = write_run(tmp_path / "run", {"anchor": anchor, "momentum_buffer": anchor}, step=3)
    add_checkpoint(run, {"z": anchor, "average": average}, step=5)
    add_checkpoint(run, {"anchor": anchor}, step=7)
    next((run.checkpoint / "step-7" / "global").glob("*.distcp")).unlink()
    newest = find_trained(str(run.root))
    assert newest.step == 5
    assert all(torch.equal(tensor, average[name]) for name, tensor in newest.weights().items())
    named = find_trained(str(run.root), step=3).weights()
    assert named.keys() == anchor.keys() and all(torch.equal(named[name], anchor[name]) for name in anchor)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "RUN"], "needs --tasks"),
        (["eval", "nowhere", "--tasks", "a"], "nowhere is not the folder of a run"),
        (["eval", "RUN", "--tasks", "a", "--step", "4"], "there is no checkpoint of step 4; there are 3"),
        (["eval", "RUN/checkpoint/step-3", "--tasks", "a", "--step", "4"], "not the same checkpoint"),
        (["eval", "RUN", "--tasks", "a", "--limits", "4"], "unknown option --limits; did you mean --limit?"),
        (["eval", "RUN", "--tasks", "a", "--limit", "0"], "--limit must be at least 1"),
        (["eval", "RUN", "--tasks", "a", "--include-path", "nowhere"], "no folder of tasks nowhere"),
        (["generate", "RUN"], "needs --prompt"),
        (["generate", "RUN", "--prompt", "x" * 70], "has 71 tokens, the model takes 64"),
        (["generate", "RUN", "--prompt", "x", "--top-k", "0"], "must be at least 1"),
        (["generate", "RUN", "--prompt", "x", "--temperature", "nan"], "--temperature must be a finite number"),
        (["generate", "RUN", "--prompt", "x", "--temperature", "inf"], "--temperature must be a finite number"),
        (
            ["generate", "RUN", "--prompt", "x", "--seed", str(2**64)],
            "--seed must be a whole number of at most",
        ),
        (["generate", "RUN", "--prompt", "a\udcff"], r"--prompt is not UTF-8 \(at character 2\)"),
        (["generate", "nowhere", "--prompt", "x"], "nowhere is not the folder of a run"),
        (["export", "RUN", "out", "--shard-gib", "nan"], "--shard-gib must be a finite number"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    run = write_run(tmp_path / "run", {"anchor": random_weights()})
    assert main([word.replace("RUN", str(run.root)) for word in words]) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message.replace("?", r"\?"), error) and "\n" not in error, error


def test_suites() -> None:
    assert expand(["paper", "piqa", "mine"]) == [*SUITES["paper"], "mine"]


def test_generate_goes_on_from_the_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", {"anchor": random_weights(says=258)})

    def text(*options: str) -> str:
        assert main(["generate", str(run.root), "--prompt", "text", "--tokens", "12", *options]) == 0
        return capsys.readouterr().out

    greedy, hot, same = text("--temperature", "0"), text("--seed", "5"), text("--seed", "5")
    assert greedy.startswith("text") and len(greedy) > 8
    assert hot == same != greedy
