"""Checks of short training runs, and of the commands that read their checkpoints."""

import csv
import json
import math
import runpy
import statistics
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from muloco.evals.report import figures as figures_of
from muloco.gpu_check.bench import Bench, Figures, apart, expect, in_checkout
from muloco.gpu_check.checks.attention import SEQUENCES, build, packed
from muloco.gpu_check.runs import LOSS_TOLERANCE, Fields, Run, expect_close_losses, finished, outputs, train_here
from muloco.gpu_check.runs import train as trained
from muloco.training.trained import find_trained

CONFIG = "laptop/muloco"
STREAMING = "laptop/muloco_streaming"
ONE: Fields = {"fault_tolerance.group_size": "1"}
TASKS = ("local_choice", "local_last_word")


def train(bench: Bench) -> Figures:
    return trained(bench, "train", CONFIG, ONE | _checkpoints(bench)).figures()


def evaluation_in_training(bench: Bench) -> Figures:
    run = trained(bench, "evaluated", CONFIG, ONE | _checkpoints(bench) | _tasks(bench))
    compared = expect_close_losses(run, finished(bench, "train"), bench.size(LOSS_TOLERANCE, 0.0))
    return {**run.figures(), **_evaluation(run), **compared}


def autocast(bench: Bench) -> Figures:
    return trained(bench, "autocast", CONFIG, ONE | {"training.precision": "autocast"}).figures()


def eager(bench: Bench) -> Figures:
    run = trained(bench, "eager", CONFIG, ONE | {"compile.enable": "False"} | _tasks(bench))
    return {**run.figures(), **_evaluation(run)}


def selective_checkpointing(bench: Bench) -> Figures:
    return trained(bench, "selective", CONFIG, ONE | {"activation_checkpoint.mode": "selective"}).figures()


def full_checkpointing(bench: Bench) -> Figures:
    return trained(bench, "full", CONFIG, ONE | {"activation_checkpoint.mode": "full"}).figures()


def cuda_graphs(bench: Bench) -> Figures:
    """Trains without CUDA graphs and compares with `train`, which has them where torch supports them."""
    run = trained(bench, "no_graphs", CONFIG, ONE | {"training.disable_cuda_graphs": "True"})
    recorded = finished(bench, "train")
    return {
        "with_tokens_per_second": recorded.figures()["tokens_per_second"],
        "without_tokens_per_second": run.figures()["tokens_per_second"],
        **expect_close_losses(run, recorded),
    }


def chunked_loss(bench: Bench) -> Figures:
    with patch("muloco.training.titan_config.LARGE_VOCABULARY", 1):
        run = train_here(bench, "chunked_loss", CONFIG, ONE)
    return {**run.figures(), **expect_close_losses(run, finished(bench, "train"))}


def in_process(bench: Bench) -> Figures:
    first, second = (trained(bench, f"in_process_{which}", STREAMING, _in_process(bench)) for which in "ab")
    ours, theirs = first.digests(), second.digests()
    other = [key for key in ours if ours[key] != theirs.get(key)]
    expect(bool(ours), "there was no sync")
    expect(not other, f"{len(other)} of {len(ours)} digests differ between two equal runs, first at {other[:1]}")
    return {**first.figures(), "equal_digests": len(ours)}


def offload(bench: Bench) -> Figures:
    run = trained(bench, "offload", STREAMING, _in_process(bench) | {"outer_optimizer.offload": "True"})
    return {**run.figures(), **expect_close_losses(run, finished(bench, "in_process_a"))}


def four_bits(bench: Bench) -> Figures:
    return trained(bench, "four_bits", "laptop/muloco_4bit", _in_process(bench)).figures()


def gpa(bench: Bench) -> Figures:
    return trained(bench, "gpa", "laptop/gpa", {"fault_tolerance.transport": "in_process"}).figures()


def metrics(bench: Bench) -> Figures:
    """Compares the FLOPs a token in the metrics with PyTorch's counter on the model with dense masks. The counter
    counts a causal mask as a full one, as torchtitan's formula does."""
    line = [line for line in finished(bench, "train").lines if "tokens_per_second" in line][-1]
    if not bench.rehearsal:
        missing = {"tflops", "tflops_6n", "memory_gib"} - set(line)
        expect(not missing, f"the metrics lack {', '.join(sorted(missing))}")
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        expect(0 < line["memory_gib"] < total, f"memory_gib is {line['memory_gib']} on a device of {total:.0f} GiB")
    length = 256
    model = build(bench, length, dense=True)
    tokens, positions = packed(bench, length)
    with FlopCounterMode(display=False) as counter:
        model(tokens, positions=positions, attention_masks=model.get_attention_masks(positions)).sum().backward()
    counted = counter.get_total_flops() / (SEQUENCES * length) / 1e6
    if bench.rehearsal:
        return {"counted_mflop_per_token": counted}
    told = line["tflops"] * 1e6 / line["tokens_per_second"]
    expect(0.8 < told / counted < 1.25, f"the metrics count {told:.1f} MFLOP a token, and PyTorch counts {counted:.1f}")
    return {"told_mflop_per_token": told, "counted_mflop_per_token": counted}


def eval(bench: Bench) -> Figures:  # noqa: A001
    return figures_of_evaluation(bench, "evaluated.json")


def generate(bench: Bench) -> Figures:
    prompt, run = "def main(", str(outputs(bench, "train"))
    said = bench.muloco("generate", run, "--prompt", prompt, "--tokens", bench.size("40", "5"))
    text = said[said.find(prompt) :].strip()
    expect(prompt in said and len(text) > len(prompt), f"`muloco generate` wrote {said[-80:]!r}")
    return {"characters": len(text)}


def export(bench: Bench) -> Figures:
    """Compares the logits of the exported model in transformers with those of the run's own model on the device."""
    import transformers

    run, folder = outputs(bench, "train"), bench.scratch / "exported"
    bench.muloco("export", str(run), str(folder))
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    theirs = theirs.to(bench.device)
    ours: Any = find_trained(str(run)).model(bench.device)
    length = 32
    tokens = torch.randint(2048, (2, length), generator=torch.Generator().manual_seed(0)).to(bench.device)
    positions = torch.arange(length, device=bench.device).expand(2, length)
    with torch.no_grad():
        expected = ours(tokens, positions=positions, attention_masks=ours.get_attention_masks(positions)).float()
        difference = apart(theirs(tokens).logits, expected)
    expect(difference < 1e-3, f"logits are {difference:.1e} apart")
    return {"logits_apart": difference}


def pseudogradients(bench: Bench) -> Figures:
    checkpoint = outputs(bench, "train") / "checkpoint" / f"step-{_half(bench)}"
    out = bench.scratch / "pseudogradients"
    options = ("--workers", "1", "2", "--steps", bench.size("5", "2"), "--out", str(out))
    bench.muloco("analyze", "pseudogradients", str(checkpoint), *options)
    with (out / "matrices.csv").open() as file:
        rows = list(csv.DictReader(file))
    worst = 0.0
    for row in rows:
        left, right = float(row["nuclear_norm"]), float(row["from_steps"]) + float(row["from_decay"])
        worst = max(worst, abs(left - right) / left)
    expect(worst < 1e-6, f"the sides of the proposition are {worst:.1e} apart")
    cosines = [float(row["cosine"]) for row in rows if row["workers"] == "2"]
    return {"error_of_proposition": worst, "mean_cosine": statistics.fmean(cosines)}


def _half(bench: Bench) -> int:
    return bench.size(30, 6)


def _checkpoints(bench: Bench) -> Fields:
    return {"checkpoint.enable": "True", "checkpoint.interval": str(_half(bench)), "checkpoint.keep": "0"}


def _in_process(bench: Bench) -> Fields:
    return {
        "fault_tolerance.transport": "in_process",
        "fault_tolerance.group_size": bench.size("4", "2"),
        "fault_tolerance.sync_steps": bench.size("30", "6"),
        "training.local_batch_size": "4",
        "optimizer.symmetric_products": "matmul",  # what is timed may differ between two runs
    }


def _tasks(bench: Bench) -> Fields:
    return {
        "evaluation.tasks": TASKS,
        "evaluation.include_path": str(_task_folder(bench)),
        "evaluation.at": ("0.5", "1.0"),
    }


def _task_folder(bench: Bench) -> Path:
    """Writes the lm-eval tasks of the tests, with their data, to a new folder, and returns it. Each row writes its own,
    since rows run side by side."""
    module = runpy.run_path(str(in_checkout("tests", "evals", "local_tasks.py")))
    return module["write_tasks"](Path(mkdtemp(dir=bench.scratch)) / "tasks")


def _evaluation(run: Run) -> dict[str, float]:
    """Returns the figures of the last evaluation during training."""
    lines = [line for line in run.lines if line.get("event") == "evaluation"]
    failed = [line["reason"] for line in run.lines if line.get("event") == "evaluation_failed"]
    expect(len(lines) == 2 and not failed, f"{len(lines)} evaluations instead of 2; {failed}")
    figures = {name: value for name, value in lines[-1].items() if name.startswith("evaluation/")}
    expect(all(map(math.isfinite, figures.values())), f"figures that are not finite: {figures}")
    return figures


def figures_of_evaluation(bench: Bench, name: str, *launcher: str) -> Figures:
    """Runs `muloco eval` on the last checkpoint of the run that row `evaluation_in_training` trained, and compares its
    figures with those of evaluation during training.

    Args:
        bench: the bench of the check.
        name: name of the file of the figures.
        launcher: arguments of Python that come before `-m muloco`.
    """
    file = bench.scratch / name
    words = ("--tasks", ",".join(TASKS), "--include-path", str(_task_folder(bench)), "--output", str(file))
    bench.python(*launcher, "-m", "muloco", "eval", str(outputs(bench, "evaluated")), *words)
    figures = figures_of(json.loads(file.read_text()))
    worst = 0.0
    for metric, value in _evaluation(finished(bench, "evaluated")).items():
        key = metric.removeprefix("evaluation/")
        if key in figures:  # the mean is not a figure of lm-eval
            difference = abs(figures[key] - value) / max(1.0, abs(value))
            expect(
                difference <= bench.size(0.1, 1e-3), f"{key} is {figures[key]:.4g}; during training it was {value:.4g}"
            )
            worst = max(worst, difference)
    return {**figures, "apart": worst}
