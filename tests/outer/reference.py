"""DiLoCo with streaming, written down from its definition in double precision; it knows none of our code.

Fragment i of J is applied after the inner steps c H + floor(H (i + 1) / J), c = 0, 1, ..., with the pseudogradients of
tau steps earlier. The last step applies what is in flight, then averages every fragment that has not been merged in
that very step, and keeps nothing local.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

Tensors = dict[str, Tensor]
Outer = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], float], None]
"""Moves anchors of one fragment in place: anchors, mean pseudogradients, outer learning rate."""


@dataclass
class Outcome:
    """What a run ends with."""

    anchor: Tensors
    local: list[list[Tensors]] = field(default_factory=list)
    """Parameters of each worker after each inner step: `local[step - 1][worker]`."""
    syncs: list[tuple[int, int, dict[int, int]]] = field(default_factory=list)
    """(step after which it was applied, fragment, inner steps of those who took part), in order."""


class Nesterov:
    """buf = momentum buf + g; theta -= lr (g + momentum buf), or theta -= lr buf."""

    def __init__(self, momentum: float, nesterov: bool = True):
        self.momentum, self.nesterov, self.buffers = momentum, nesterov, {}

    def __call__(self, anchor: Mapping[str, Tensor], mean: Mapping[str, Tensor], lr: float) -> None:
        for name, gradient in mean.items():
            buffer = self.momentum * self.buffers.get(name, 0 * gradient) + gradient
            self.buffers[name] = buffer
            anchor[name].sub_(lr * (gradient + self.momentum * buffer if self.nesterov else buffer))


def rounds_of(steps: int, interval: int, fragments: int, delay: int) -> list[tuple[int, int, int]]:
    """(sent after step, applied after step, fragment) of all rounds of a run, in the order of their ends."""
    rounds = []
    for cycle in range(steps // interval + 1):
        for index in range(fragments):
            due = cycle * interval + interval * (index + 1) // fragments
            if due - delay < steps:
                rounds.append((due - delay, min(due, steps), index))
    merged_at_the_end = {index for _, applied, index in rounds if applied == steps}
    return rounds + [(steps, steps, index) for index in range(fragments) if index not in merged_at_the_end]


def diloco(
    start: Mapping[str, Tensor],
    drift: Callable[[int, int], Mapping[str, Tensor]],
    *,
    workers: int,
    fragments: Sequence[Sequence[str]],
    interval: int,
    steps: int,
    outer: Outer,
    lr: Callable[[int], float],
    delay: int = 0,
    alpha: float = 0.0,
    present: Callable[[int], Sequence[int]] | None = None,
) -> Outcome:
    """Trains K workers whose inner step `step` adds `drift(worker, step)`; `present(step)`: who takes part in the round
    that is sent after `step`, by default all."""
    anchor = {name: tensor.double().clone() for name, tensor in start.items()}
    local = [{name: tensor.clone() for name, tensor in anchor.items()} for _ in range(workers)]
    rounds = rounds_of(steps, interval, len(fragments), delay)
    outcome, means, merged = Outcome(anchor), {}, dict.fromkeys(range(len(fragments)), 0)
    for step in range(1, steps + 1):
        for worker in range(workers):
            for name, change in drift(worker, step).items():
                local[worker][name] += change.double()
        for sent, _, index in rounds:
            if sent == step:
                who = range(workers) if present is None else present(step)
                weights = dict.fromkeys(who, step - merged[index])
                means[index] = (
                    weights,
                    {
                        name: sum(w * (anchor[name] - local[k][name]) for k, w in weights.items())
                        / sum(weights.values())
                        for name in fragments[index]
                    },
                )
        for _, applied, index in rounds:
            if applied == step:
                weights, mean = means.pop(index)
                outer({name: anchor[name] for name in mean}, mean, lr(step))
                share = 0.0 if step == steps else alpha
                for worker in range(workers):
                    for name in fragments[index]:
                        local[worker][name] = share * local[worker][name] + (1 - share) * anchor[name]
                merged[index] = step
                outcome.syncs.append((step, index, weights))
        outcome.local.append([{name: tensor.clone() for name, tensor in tensors.items()} for tensors in local])
    return outcome
