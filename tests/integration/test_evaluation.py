"""Evaluation in real runs, and what their checkpoints are good for."""

import json
from pathlib import Path

import pytest
import torch

from muloco.cli import main
from muloco.training.trained import find_trained

from ..evals.local_tasks import write_tasks
from .runs import Run, train

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.integration

MULOCO = "config/laptop/muloco.py"


def same_logits_in_transformers(run: Run, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    assert main(["export", str(run.folder.root), str(folder)]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    trained = find_trained(str(run.folder.root))
    ours = trained.model("cpu")
    tokens = torch.tensor([trained.tokenizer().encode_text("import os\nimport sys\n" * 20)[:64]])
    positions = torch.arange(tokens.shape[1])[None]
    with torch.no_grad():
        expected = ours(tokens, positions=positions, attention_masks=ours.get_attention_masks(positions))
        torch.testing.assert_close(theirs(tokens).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_two_workers_learn_the_same_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In mid-window and at the end: the same losses, digests and validation, to the last bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tasks = write_tasks(tmp_path / "tasks", documents=8)
    settings = {"training__steps": 6, "fault_tolerance__sync_steps": 4, "metrics__log_freq": 1}
    settings |= {"validation__freq": 5, "checkpoint__interval": 5, "checkpoint__keep": 0}
    without = train(tmp_path, "without", MULOCO, **settings)
    evaluated = {"evaluation__include_path": tasks, "evaluation__limit": 6}
    words = ["--evaluation.tasks", "local_choice", "local_rolling", "--evaluation.at", "0.5", "5", "1.0"]
    beside = train(tmp_path, "beside", MULOCO, *words, **settings, **evaluated)
    assert (without.status, beside.status) == (0, 0), without.output + beside.output
    assert beside.learned() == without.learned()

    lines = {worker: beside.lines(worker=worker, event="evaluation") for worker in (0, 1)}
    names = ["evaluation/local_choice/acc", "evaluation/local_rolling/bits_per_byte", "evaluation/mean"]
    found = {worker: [[line[name] for name in ("step", *names)] for line in lines[worker]] for worker in lines}
    assert found[0] == found[1], "all workers evaluate the same anchor"
    assert [line[0] for line in found[0]] == [3, 5, 6]
    assert len({line[2] for line in found[0]}) > 1
    assert not without.lines(event="evaluation")

    last = lines[0][-1]
    for step, line in ((5, found[0][1]), (6, found[0][2])):  # the checkpoint of that step, evaluated afterwards
        output = tmp_path / f"{step}.json"
        path = str(beside.folder.checkpoint / f"step-{step}")
        options = ["--include-path", str(tasks), "--limit", "6", "--output", str(output)]
        assert main(["eval", path, "--tasks", "local_choice,local_rolling", *options]) == 0
        results = json.loads(output.read_text())["results"]
        assert results["local_choice"]["acc,none"] == line[1]
        assert results["local_rolling"]["bits_per_byte,none"] == pytest.approx(line[2], rel=1e-6)
        during = json.loads((beside.folder.evaluations / f"step-{step}" / "during-training.json").read_text())
        afterwards = json.loads(output.read_text())
        assert during["muloco"] == afterwards["muloco"]
        assert {task: metrics.keys() for task, metrics in during["results"].items()} == {
            task: metrics.keys() for task, metrics in results.items()
        }
        assert during["results"]["local_choice"]["acc,none"] == line[1]
    assert beside.summary()["evaluation"] == {
        "step": 6,
        "figures": {name.removeprefix("evaluation/"): value for name, value in last.items() if "/" in name},
    }
    assert without.summary()["evaluation"] is None and "mean " in beside.output
    same_logits_in_transformers(beside, tmp_path / "hf")


def test_a_sharded_model_is_evaluated_exported_and_started_from(tmp_path: Path) -> None:
    """FSDP2 over two ranks: what they find together in training is what one finds afterwards. Another run, on one rank,
    starts where this one has ended."""
    tasks = write_tasks(tmp_path / "tasks", documents=8)
    words = ["--evaluation.tasks", "local_choice", "local_last_word", "--evaluation.at", "1.0"]
    settings = {"fault_tolerance__group_size": 1, "training__steps": 3, "evaluation__include_path": tasks}
    sharded = train(tmp_path, "sharded", MULOCO, *words, **settings, parallelism__data_parallel_shard_degree=2)
    assert sharded.status == 0, sharded.output
    (line,) = sharded.lines(event="evaluation")
    output, names = tmp_path / "found.json", "local_choice,local_last_word"
    assert (
        main(
            ["eval", str(sharded.folder.root), "--tasks", names, "--include-path", str(tasks), "--output", str(output)]
        )
        == 0
    )
    found = json.loads(output.read_text())
    assert found["muloco"]["mean_accuracy"] == line["evaluation/mean"]
    perplexity = found["results"]["local_last_word"]["perplexity,none"]
    assert line["evaluation/local_last_word/perplexity"] == pytest.approx(perplexity, rel=1e-5)
    same_logits_in_transformers(sharded, tmp_path / "hf")

    more = train(
        tmp_path, "more", MULOCO, fault_tolerance__group_size=1, training__steps=1, checkpoint__initial=tmp_path / "hf"
    )
    assert more.status == 0, more.output
    assert more.validation()[0] == pytest.approx(sharded.validation()[3], abs=1e-5)
    assert more.validation()[0] < sharded.validation()[0] - 0.1
