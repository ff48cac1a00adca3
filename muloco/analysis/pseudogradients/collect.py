"""The pseudogradients of K workers from a checkpoint, and how each inner step has added to their mean.

The workers take their steps one after the other, twice: at first only their pseudogradients are kept; the second time
each step is measured against the mean of those. So no step has to be stored, and the sides of Proposition 4.2 come from
different passes over the same bits.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muloco.analysis.pseudogradients.measures import mean, orthonormal_factor
from muloco.analysis.pseudogradients.proposition import Step, measure_step
from muloco.optim.rules import RULES
from muloco.optim.rules.muon import LR_SCALES
from muloco.runs.folder import write_json
from muloco.sharding import local
from muloco.training.continuation import Continuation


def collect(continuation: Continuation, *, workers: int, steps: int, folder: Path, done: Callable[[], None]) -> None:
    """Lets K workers take `steps` inner steps each, and writes into a folder

        K{workers}-worker{k}.pt   the pseudogradient of worker k: fp32 tensors by name, of the matrices of the layers
        K{workers}-steps.json     by matrix, every inner step of every worker: the fields of a `Step`

    Args:
        continuation: of a checkpoint, for this K.
        workers: K.
        steps: H.
        folder: without files of these names.
        done: is called after each pass of a worker.
    """
    matrices = continuation.matrices
    for worker in range(workers):
        continuation.restart()
        start = {name: local(matrix).clone() for name, matrix in matrices.items()}
        continuation.take(steps, worker=worker, workers=workers)
        moved = {name: (start[name] - local(matrix)).cpu() for name, matrix in matrices.items()}
        torch.save(moved, _file(folder, workers, worker))
        done()
    written = read_tensors(folder, workers)
    factors = {name: orthonormal_factor(mean(written[name]).to(matrix.device)) for name, matrix in matrices.items()}
    taken: dict[str, list[Step]] = {name: [] for name in matrices}
    for worker in range(workers):
        continuation.restart()
        with _measuring(continuation.optimizer, matrices, factors, worker, taken):
            continuation.take(steps, worker=worker, workers=workers)
        done()
    write_json(folder / f"K{workers}-steps.json", {name: list(map(asdict, steps)) for name, steps in taken.items()})


def read_steps(folder: Path, workers: int) -> dict[str, list[Step]]:
    """The steps of K workers by matrix, as `collect` has written them."""
    written = json.loads((folder / f"K{workers}-steps.json").read_text(encoding="utf-8"))
    return {name: [Step(**step) for step in steps] for name, steps in written.items()}


def read_tensors(folder: Path, workers: int) -> dict[str, list[Tensor]]:
    """The pseudogradients of K workers by matrix, as `collect` has written them."""
    files = [torch.load(_file(folder, workers, worker), mmap=True, weights_only=True) for worker in range(workers)]
    return {name: [file[name] for file in files] for name in files[0]}


def _file(folder: Path, workers: int, worker: int) -> Path:
    return folder / f"K{workers}-worker{worker}.pt"


@contextlib.contextmanager
def _measuring(
    optimizer: torch.optim.Optimizer,
    matrices: Mapping[str, Tensor],
    factors: Mapping[str, Tensor],
    worker: int,
    taken: Mapping[str, list[Step]],
) -> Iterator[None]:
    """Within the context every step of the optimizer is added to `taken`."""
    groups = {id(param): group for group in optimizer.param_groups for param in group["params"]}
    before: dict[str, Tensor] = {}
    numbers = itertools.count(1)

    def remember(*_: Any) -> None:
        before.update({name: local(matrix).clone() for name, matrix in matrices.items()})

    def measure(*_: Any) -> None:
        number = next(numbers)
        for name, matrix in matrices.items():
            group = groups[id(matrix)]
            step = measure_step(
                before[name],
                local(matrix),
                factors[name],
                alpha=learning_rate(group, matrix.shape),
                decay_rate=float(group["lr"]) * group["lr_factor"] * group["weight_decay"],
                cautious=group["cautious_weight_decay"],
                worker=worker,
                step=number,
            )
            taken[name].append(step)

    with contextlib.ExitStack() as hooks:
        hooks.callback(optimizer.register_step_pre_hook(remember).remove)
        hooks.callback(optimizer.register_step_post_hook(measure).remove)
        yield


def learning_rate(group: Mapping[str, Any], shape: torch.Size) -> float:
    """alpha: what the direction of a matrix `[rows, cols]` is multiplied by, all factors included, by its group."""
    rate = float(group["lr"]) * group["lr_factor"]
    return rate * LR_SCALES[group["adjust_lr"]](*shape) if RULES[group["algorithm"]].needs_whole_matrices else rate
