"""Evaluation of one checkpoint by ours and by lm-eval's own Hugging Face model (`lm_eval --model hf`) on its export.

    python benchmarks/evals.py [--documents 20] [--flavor laptop] [--output results/evals/speed.json]

A run of one step makes the checkpoint. The tasks are made from the embedded corpus: `endings` has questions of 20 words
and four endings of 4 (as hellaswag), `letters` asks for one of four letters behind 30 words (as mmlu), `text` is the
rolling perplexity of documents. Both take turns in one process on the same threads; each one's time is the least of its
rounds, from requests to figures, loading left out. lm-eval's model gets the batch size that is the fastest for it. The
figures of both are compared.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lm_eval
import torch
import transformers
from lm_eval.models.huggingface import HFLM

from muloco.data.corpus import embedded_corpus
from muloco.evals.adapter import MulocoLM
from muloco.evals.report import figures
from muloco.evals.run import evaluate
from muloco.evals.scoring import Scorer
from muloco.evals.tasks import load_tasks
from muloco.export.folders import export_huggingface
from muloco.training.trained import Trained, find_trained

ROUNDS = 3
BATCH_SIZES = (1, 16)
BATCH_TOKENS = 8192

YAML = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
"""
CHOICES = 'doc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}]\n'
ROLLING = "metric_list: [{metric: bits_per_byte}]\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--flavor", default="laptop")
    parser.add_argument("--output", type=Path, default=Path("results/evals/speed.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tasks = write_tasks(Path(scratch, "tasks"), options.documents)
        trained = train(Path(scratch), options.flavor)
        export_huggingface(trained, Path(scratch, "hf"), dtype=torch.float32)
        result = compare(trained, Path(scratch, "hf"), tasks)
    result |= {"flavor": options.flavor, "documents": options.documents, "machine": machine()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'task':<10}{'ours':>10}{'lm_eval hf':>12}{'ratio':>8}   figures")
    for name, row in result["tasks"].items():
        print(
            f"{name:<10}{row['ours_seconds']:>9.2f}s{row['hf_seconds']:>11.2f}s{row['ratio']:>8.2f}   "
            f"{row['ours_figure']:.6f} {row['hf_figure']:.6f}"
        )


def train(scratch: Path, flavor: str) -> Trained:
    """One step of a worker on its own."""
    settings = {
        "run.name": "run",
        "run.outputs": scratch,
        "model.flavor": flavor,
        "data.vocabulary": 2048,
        "fault_tolerance.group_size": 1,
        "training.steps": 1,
        "training.global_batch_size": 2,
        "training.local_batch_size": 2,
        "validation.sequences": 2,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "muloco", "train", "config/laptop/muloco.py", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return find_trained(str(scratch / "run"))


def write_tasks(folder: Path, documents: int) -> Path:
    folder.mkdir()
    draw = random.Random(0)
    words = [word for document in embedded_corpus().documents[:80] for word in document.text.split()]

    def text(count: int) -> str:
        start = draw.randrange(len(words) - count)
        return " ".join(words[start : start + count])

    def line(name: str) -> dict[str, Any]:
        if name == "endings":
            return {"question": text(20), "choices": [text(4) for _ in range(4)], "answer": draw.randrange(4)}
        if name == "letters":
            return {"question": text(30), "choices": list("ABCD"), "answer": draw.randrange(4)}
        return {"question": "", "answer": text(100)}

    for name in ("endings", "letters", "text"):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line(name)) + "\n" for _ in range(documents)))
        kind = "loglikelihood_rolling" if name == "text" else "multiple_choice"
        yaml = YAML.format(name=name, file=file, kind=kind) + (ROLLING if name == "text" else CHOICES)
        (folder / f"{name}.yaml").write_text(yaml)
    return folder


def compare(trained: Trained, exported: Path, folder: Path) -> dict[str, Any]:
    model = trained.model("cpu")
    longest = trained.config.training.seq_len
    scorer = Scorer(model=model, device=torch.device("cpu"), batch_tokens=BATCH_TOKENS, longest=longest)
    ours = MulocoLM(scorer, trained.tokenizer(), quiet=True)
    theirs = {size: HFLM(str(exported), device="cpu", dtype="float32", batch_size=size) for size in BATCH_SIZES}
    rows = {}
    for name in ("endings", "letters", "text"):
        tasks = load_tasks([name], str(folder))

        def by_ours(tasks=tasks) -> dict[str, Any]:
            return evaluate(ours, tasks)

        def by_theirs(size: int, tasks=tasks) -> dict[str, Any]:
            found = lm_eval.evaluate(theirs[size], {"tasks": tasks.leaves}, log_samples=False, bootstrap_iters=0)
            assert found is not None
            return found

        own: list[float] = []
        other: dict[int, list[float]] = {size: [] for size in BATCH_SIZES}
        for _ in range(ROUNDS):
            seconds, found = timed(by_ours)
            own.append(seconds)
            for size in BATCH_SIZES:
                seconds, expected = timed(lambda size=size: by_theirs(size))
                other[size].append(seconds)
        best = min(BATCH_SIZES, key=lambda size: min(other[size]))
        rows[name] = {
            "ours_seconds": min(own),
            "hf_seconds": min(other[best]),
            "hf_batch_size": best,
            "ratio": min(other[best]) / min(own),
            "ours_figure": next(iter(figures(found).values())),
            "hf_figure": next(iter(figures(expected).values())),
            "rounds": {"ours": own, "hf": {str(size): runs for size, runs in other.items()}},
        }
    return {"tasks": rows}


def timed(function: Any) -> tuple[float, dict[str, Any]]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lm_eval": lm_eval.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
