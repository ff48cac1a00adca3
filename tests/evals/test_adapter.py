"""lm-eval's figures by our adapter: of models whose figures are known, and beside lm-eval's own Hugging Face model."""

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lm_eval")

from muloco.data.tokenizer import DocumentTokenizer, train_tokenizer
from muloco.errors import UserError
from muloco.evals.adapter import MulocoLM
from muloco.evals.report import figures, mean
from muloco.evals.run import evaluate
from muloco.evals.scoring import Scorer
from muloco.evals.tasks import Tasks, load_tasks
from muloco.export.folders import export_huggingface
from muloco.model.attention import DenseDocumentAttention
from muloco.training.trained import find_trained

from ..run_on_disk import BYTES, random_weights, write_run
from .local_tasks import NAMES, write_tasks


class ByTable(nn.Module):
    """Logits by the last token alone: a table [vocabulary, vocabulary]."""

    def __init__(self, table: torch.Tensor):
        super().__init__()
        attention = SimpleNamespace(inner_attention=DenseDocumentAttention.Config())
        self.config = SimpleNamespace(first_attention=attention)
        self.table = nn.Parameter(table)
        self.lm_head = nn.Identity()
        self._skip_lm_head = False  # as torchtitan's decoders say whether the loss applies it

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, attention_masks: Any) -> torch.Tensor:
        return self.lm_head(self.table[tokens])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> DocumentTokenizer:
    """A token a byte."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(BYTES, 258, folder)
    return DocumentTokenizer(folder)


def adapter(model: nn.Module, tokenizer: DocumentTokenizer, longest: int = 64) -> MulocoLM:
    scorer = Scorer(model=model, device=torch.device("cpu"), batch_tokens=512, longest=longest)
    return MulocoLM(scorer, tokenizer, quiet=True)


def tasks_in(folder: Path) -> Tasks:
    return load_tasks(NAMES, str(folder))


def test_a_uniform_model_has_log2_of_its_vocabulary(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    """Bits a byte where each byte is a token; over texts longer and shorter than what the model takes."""
    found = figures(evaluate(adapter(ByTable(torch.zeros(300, 300)), tokenizer), tasks_in(write_tasks(tmp_path / "t"))))
    assert found["local_rolling/bits_per_byte"] == pytest.approx(math.log2(300), rel=1e-6)


def test_a_rigged_model_scores_one(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    """It knows which byte follows which, and the right answers alone go on in that order."""
    write_tasks(tmp_path / "t")
    letters = "abcdefghijklmnopqrstuvwxyz"
    draw = random.Random(1)
    choices, texts = [], []
    for _ in range(10):
        start, right = draw.randrange(15), draw.randrange(4)
        answers = ["".join(draw.sample(letters, 3)) for _ in range(4)]
        answers[right] = letters[start + 4 : start + 7]
        choices.append({"question": letters[start : start + 4], "choices": answers, "answer": right})
        texts.append({"text": "? abcde"})
    for name, lines in (("choice", choices), ("text", texts)):
        (tmp_path / "t" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    table = torch.full((258, 258), -30.0)
    for one, next_one in zip(letters, letters[1:], strict=False):
        table[tokenizer.encode_text(one)[0], tokenizer.encode_text(next_one)[0]] = 30.0
    for one, next_one in ("? ", " a"):
        table[tokenizer.encode_text(one)[0], tokenizer.encode_text(next_one)[0]] = 30.0
    tasks = tasks_in(tmp_path / "t")
    found = figures(evaluate(adapter(ByTable(table), tokenizer), tasks))
    assert found["local_choice/acc"] == found["local_choice/acc_norm"] == found["local_last_word/acc"] == 1.0
    assert found["local_last_word/perplexity"] == pytest.approx(1.0, abs=1e-6)
    guessed = figures(evaluate(adapter(ByTable(torch.zeros(258, 258)), tokenizer), tasks))
    assert guessed["local_choice/acc"] < 1.0 and guessed["local_last_word/acc"] == 0.0


def test_figures_are_those_of_lm_evals_own_model_on_the_export(tmp_path: Path) -> None:
    """As `lm_eval --model hf` prints them, on the folder that `muloco export` writes."""
    pytest.importorskip("transformers")
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    run = write_run(tmp_path / "run", {"anchor": random_weights()})
    trained = find_trained(str(run.root))
    export_huggingface(trained, tmp_path / "hf", dtype=torch.float32)
    folder = write_tasks(tmp_path / "tasks")
    ours = evaluate(adapter(trained.model("cpu"), trained.tokenizer()), tasks_in(folder))
    theirs = lm_eval.simple_evaluate(
        model=HFLM(str(tmp_path / "hf"), device="cpu", dtype="float32", batch_size=4),
        tasks=NAMES,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    assert theirs is not None
    found, expected = figures(ours), figures(theirs)
    assert found.keys() == expected.keys() and len(found) == 7
    assert found == pytest.approx(expected, rel=2e-6)
    assert {name: found[name] for name in found if "acc" in name} == {n: expected[n] for n in expected if "acc" in n}
    assert 0 < found["local_choice/acc"] < 1
    assert ours["n-samples"] == theirs["n-samples"]


def test_generation_stops_where_the_task_says(tokenizer: DocumentTokenizer, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"anchor": random_weights(says=258)})
    model = find_trained(str(run.root)).model("cpu")
    requests = [SimpleNamespace(args=("text", {"until": [], "max_gen_toks": 20}))]
    (whole,) = adapter(model, tokenizer).generate_until(requests)
    assert len(whole) > 2
    stop = whole[1:2]
    requests = [SimpleNamespace(args=("text", {"until": [stop], "max_gen_toks": 20}))]
    assert adapter(model, tokenizer).generate_until(requests) == [whole.split(stop)[0]]
    requests[0].args = ("text", {"do_sample": True})
    with pytest.raises(ValueError, match="samples"):
        adapter(model, tokenizer).generate_until(requests)


def test_the_mean_counts_each_task_once() -> None:
    found = {"a/acc": 0.1, "a/acc_norm": 0.5, "b/acc": 0.3, "c/bits_per_byte": 9.0, "b_sub/acc": 0.9}
    assert mean(found, ["a", "b", "c"]) == pytest.approx(0.4)
    assert mean(found, ["c"]) is None


def test_missing_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tasks(tmp_path / "t")
    (folder / "text.jsonl").unlink()
    with pytest.raises(UserError, match=r"task local_rolling: .*text\.jsonl"):
        load_tasks(["local_rolling"], str(folder))
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (folder / "far.yaml").write_text((folder / "choice.yaml").read_text().replace("json\n", "no-such-owner/set\n", 1))
    text = (folder / "far.yaml").read_text().replace("local_choice", "far")
    (folder / "far.yaml").write_text("\n".join(line for line in text.splitlines() if "dataset_kwargs" not in line))
    with pytest.raises(UserError, match=r"task far: its data set is not here .*no-such-owner/set"):
        load_tasks(["far"], str(folder))
