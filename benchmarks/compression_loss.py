"""What compression does to the loss: the analogue of the paper's compression study (arXiv 2505.23725) at a size for two
CPU cores.

    python benchmarks/compression_loss.py [NAME ...] [--list]

Eight workers in one process train the flavor `tiny` with MuLoCo and with DiLoCo; what differs between runs of a method
is how pseudogradients travel. Same data, start and order for all runs of a seed. Norms travel as fp32, as in the paper;
quantized means are encoded again at their owner, top-k is gathered. Every run is one of the names that --list prints;
one that results/compression/loss.json has already is not run again. Prints a table, and draws it.

The workers are `muloco.outer`'s own loop around `muloco.optim`, without torchtitan's Trainer, whose start and logs
would take most of the time at this size. Sequences are attended from their first token on, across documents.
"""

import argparse
import itertools
import json
import math
import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from compression_loss_table import draw, table

from muloco.data.held_out import HeldOutDataLoader
from muloco.data.loader import PackedDataLoader
from muloco.data.prepare import TrainingData, prepare
from muloco.model import build
from muloco.model.flavors import flavor
from muloco.optim import Muon
from muloco.outer import OuterLoop, WorkerIdentity
from muloco.outer.in_process import InProcessGroup
from muloco.settings.compression import Compression
from muloco.settings.data import ResolvedData
from muloco.settings.outer import OuterOptimizer
from muloco.training.outer import build_compression, build_outer_optimizer

RESULTS = Path(__file__).parents[1] / "results" / "compression"
FLAVOR = "tiny"
WORKERS = 8
SEQ_LEN, SEQUENCES = 128, 1
"""Length of a sequence, and how many a worker takes in an inner step."""
SYNC_STEPS, STEPS, WARMUP = 12, 120, 12
HELD_OUT = 64
SEEDS = (1, 2)
"""The first one is that of all runs; the other shows how far fp32 runs lie apart."""


@dataclass(frozen=True)
class Method:
    """Inner learning rate and outer optimizer; those of PAPER 4.1 for K = 8 outside."""

    lr: float
    outer: OuterOptimizer


METHODS = {
    "muloco": Method(0.02, OuterOptimizer(lr=0.9, momentum=0.8)),
    "diloco": Method(0.004, OuterOptimizer(lr=0.9, momentum=0.9)),
}


@dataclass(frozen=True)
class Run:
    """One training run."""

    method: str
    compression: Compression
    seed: int = SEEDS[0]

    @property
    def name(self) -> str:
        chosen = self.compression
        parts = [self.method, chosen.kind if chosen.kind != "none" else "fp32"]
        if chosen.fraction is not None:
            parts.append(f"{100 * chosen.fraction:g}%")
        elif chosen.bits is not None:
            parts.append(f"{chosen.bits}bit")
        if chosen.error_feedback:
            parts.append("ef")
        if self.seed != SEEDS[0]:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)


def all_runs() -> list[Run]:
    """In the order in which they are made: the baselines, what loses much, and at last what loses little."""
    runs = [Run(method, Compression(), seed) for seed in SEEDS for method in METHODS]
    lossy = []
    for bits in (2, 4, 8):
        lossy += [
            Compression(kind="statistical", bits=bits),
            Compression(kind="linear", granularity="row", bits=bits),
            Compression(kind="lloyd_max", bits=bits),
        ]
        if bits == 2:
            lossy += [
                Compression(kind="topk", fraction=fraction, values="fp32", reduce="gather") for fraction in (0.1, 0.025)
            ]
    for chosen, feedback, method in itertools.product(lossy, (False, True), METHODS):
        runs.append(Run(method, Compression(**{**vars(chosen), "error_feedback": feedback})))
    return runs


def train(run: Run, data: TrainingData) -> dict[str, float]:
    """Held-out loss of the anchor before and after, bytes that worker 0 sent, and the seconds that it took."""
    started = time.perf_counter()
    group = InProcessGroup(WORKERS)
    outcome: dict[str, float] = {}
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        torch.autograd.set_multithreading_enabled(False)
        try:
            with group.taking_turns(worker):
                _train_worker(run, worker, group, data, outcome)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return outcome | {"seconds": time.perf_counter() - started}


def _train_worker(run: Run, worker: int, group: InProcessGroup, data: TrainingData, outcome: dict[str, float]) -> None:
    torch.manual_seed(run.seed)
    model = build(FLAVOR, device="cpu", seq_len=SEQ_LEN)
    parameters = dict(model.named_parameters())
    method = METHODS[run.method]
    optimizer = _inner_optimizer(run.method, method.lr, parameters)
    loop = OuterLoop(
        parameters,
        lambda anchor: build_outer_optimizer(method.outer, anchor),
        group.transport(worker),
        identity=WorkerIdentity(worker=worker, workers=WORKERS),
        sync_interval=SYNC_STEPS,
        compression=build_compression(run.compression, parameters, tables=flavor(FLAVOR).tables),
    )
    loop.start(0)
    if worker == 0:
        outcome |= {"loss_before": held_out_loss(model, data), "bytes_sent": 0, "bytes_ring": 0}
    batches = _batches(data, worker=worker, seed=run.seed)
    for step in range(1, STEPS + 1):
        _loss(model, *next(batches)).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for settings in optimizer.param_groups:
            settings["lr"] = method.lr * schedule(step)
        optimizer.step()
        optimizer.zero_grad()
        for sync in loop.after_inner_step(step, last=step == STEPS):
            if worker == 0:
                outcome["bytes_sent"] += sync.bytes_sent
                outcome["bytes_ring"] += sync.bytes_ring
    if worker == 0:
        outcome["loss"] = held_out_loss(model, data)


def _inner_optimizer(method: str, lr: float, parameters: dict[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
    if method == "muloco":
        return Muon(parameters.items(), lr=lr, momentum=0.9, nesterov=False, betas=(0.9, 0.99), weight_decay=0.0)
    return torch.optim.AdamW(parameters.values(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)


def schedule(step: int) -> float:
    """Share of the peak learning rate: linear warm-up, cosine to a tenth."""
    if step <= WARMUP:
        return step / WARMUP
    return 0.55 + 0.45 * math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))


def _loss(model: torch.nn.Module, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(inputs["input"]).flatten(0, 1), labels.flatten())


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, data: TrainingData) -> float:
    """Mean over the first held-out sequences, the same for all runs."""
    folders = tuple(str(prepared.folder) for prepared in data.held_out)
    config = HeldOutDataLoader.Config(folders=folders, weights=data.held_out_weights, sequences=HELD_OUT)
    batches = list(config.build(dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=SEQ_LEN, local_batch_size=8))
    return sum(float(_loss(model, *batch)) for batch in batches) / len(batches)


def _batches(data: TrainingData, *, worker: int, seed: int) -> Iterator:
    folders = tuple(str(prepared.folder) for prepared in data.prepared)
    config = PackedDataLoader.Config(folders=folders, weights=data.weights, worker=worker, workers=WORKERS, seed=seed)
    return iter(config.build(dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=SEQ_LEN, local_batch_size=SEQUENCES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs to make; none: all")
    parser.add_argument("--list", action="store_true", help="print the names of all runs")
    chosen = parser.parse_args()
    runs = {run.name: run for run in all_runs()}
    if chosen.list:
        print(*runs, sep="\n")
        return
    if unknown := [name for name in chosen.names if name not in runs]:
        parser.error(f"no run {unknown[0]}; --list names them")
    torch.set_num_threads(1)
    file = RESULTS / "loss.json"
    result = json.loads(file.read_text()) if file.exists() else {"runs": {}}
    result |= {
        "command": "python benchmarks/compression_loss.py",
        "flavor": FLAVOR,
        "workers": WORKERS,
        "seq_len": SEQ_LEN,
        "sequences_a_step": WORKERS * SEQUENCES,
        "sync_steps": SYNC_STEPS,
        "steps": STEPS,
        "held_out_sequences": HELD_OUT,
        "torch": torch.__version__,
        "machine": f"1 CPU thread, {platform.machine()}",
    }
    data = prepare(ResolvedData(prepare=True), held_out_sequences=HELD_OUT, seq_len=SEQ_LEN)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in chosen.names or runs:
        if name not in result["runs"]:
            result["runs"][name] = train(runs[name], data)
            print(f"{name:32} {result['runs'][name]['loss']:.4f}  {result['runs'][name]['seconds']:.0f} s", flush=True)
            file.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))
    draw(result, RESULTS / "loss.png")


if __name__ == "__main__":
    main()
