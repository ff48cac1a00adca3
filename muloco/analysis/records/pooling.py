"""Points made of runs: seeds pooled, groups that are never mixed, and the best point of a grid."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from muloco.analysis.records.method import Variant
from muloco.analysis.records.runs import Problem, Run

RATE = "optimizer.lr"
_FOLLOWS = ("training.steps", "training.tokens", "optimizer.weight_decay")
"""Fields that follow from the batch, as a rule."""
Key = tuple[str, Variant]
"""A scale and a variant."""
Column = TypeVar("Column", bound=Hashable)


@dataclass(frozen=True)
class Measured:
    """A measured value, and what a reader has to know about it."""

    value: float
    spread: float | None = None
    seeds: int = 1
    note: str = ""
    """The settings among which it is the best."""

    @classmethod
    def over_seeds(cls, values: Sequence[float], note: str = "") -> "Measured":
        """Mean and sample standard deviation."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread, len(values), note)

    def over(self, reference: float) -> "Measured":
        """The value in % over a reference, which counts as exact for the spread."""
        spread = None if self.spread is None else 100 * self.spread / reference
        return replace(self, value=100 * (self.value / reference - 1), spread=spread)


@dataclass(frozen=True)
class Point:
    """Runs that differ in their seed alone."""

    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def variant(self) -> Variant:
        return self.first.variant

    @property
    def scale(self) -> str:
        return self.first.scale

    @property
    def batch(self) -> int:
        """Tokens in an inner step."""
        return self.first.batch

    @property
    def loss(self) -> float:
        """Mean over the seeds; infinite if one of them has diverged."""
        return statistics.fmean(run.loss for run in self.runs)

    @property
    def by_seed(self) -> dict[int, float]:
        """Losses by seed."""
        return {run.seed: run.loss for run in self.runs}

    def as_published(self) -> "Point | None":
        """This point with the losses that are compared with published ones: means of the workers' own losses or, for
        runs without outer steps, their only losses. None: they were not logged."""
        if self.variant.workers is None:
            return self
        own = [replace(run, loss=run.own_loss) for run in self.runs if run.own_loss is not None]
        return Point(tuple(own)) if len(own) == len(self.runs) else None

    def curve(self) -> list[tuple[int, float]]:
        """Held-out loss by tokens, the mean over the seeds at the steps that all of them have."""
        curves = [dict(run.curve) for run in self.runs]
        steps = sorted(set.intersection(*map(set, curves)))
        return [(step * self.batch, statistics.fmean(curve[step] for curve in curves)) for step in steps]


@dataclass(frozen=True)
class Choice:
    """The best of some points."""

    point: Point
    among: Sequence[Point]

    @property
    def measured(self) -> Measured:
        return Measured.over_seeds([run.loss for run in self.point.runs], self.note)

    @property
    def note(self) -> str:
        """Says which fields differ among the points, and whether the learning rate is at an edge of its grid."""
        if len(self.among) == 1:
            return "the only one"
        notes = []
        for field, value in self.point.first.settings.items():
            tried = {json.dumps(other): other for other in (point.first.settings[field] for point in self.among)}
            if len(tried) > 1 and field not in _FOLLOWS:
                ordered = sorted(tried.values(), key=lambda other: (str(type(other)), other))
                notes.append(f"{field} {_shown(value)} of {', '.join(map(_shown, ordered))}")
        return "; ".join(filter(None, (*notes, self._edge)))

    @property
    def _edge(self) -> str:
        """Says that the inner learning rate is the first or last of those tried with all other settings the same."""

        def others(point: Point) -> dict[str, Any]:
            return {field: value for field, value in point.first.settings.items() if field != RATE}

        tried = sorted(point.first.settings[RATE] for point in self.among if others(point) == others(self.point))
        rate = self.point.first.settings[RATE]
        if len(tried) == 1:
            return "one inner lr"
        if rate not in (tried[0], tried[-1]):
            return ""
        return f"inner lr at the {'lower' if rate == tried[0] else 'upper'} edge of its grid: the best may lie beyond"


@dataclass(frozen=True)
class Group:
    """Points of one corpus and one token budget."""

    title: str
    points: tuple[Point, ...]

    @property
    def scales(self) -> list[str]:
        """Smallest first."""
        return list({point.scale: None for point in sorted(self.points, key=_parameters)})

    @property
    def variants(self) -> list[Variant]:
        """In the order of the tables."""
        return sorted({point.variant for point in self.points}, key=lambda variant: variant.order)

    @cached_property
    def best(self) -> dict[Key, Choice]:
        """The best point of each scale and variant, over learning rates, batches and what else was tried."""
        return best_of_each(
            {(scale, variant): self.at(scale, variant) for scale in self.scales for variant in self.variants}
        )

    def best_by_batch(self, scale: str, variant: Variant) -> dict[int, Choice]:
        """The best point at each batch."""
        by_batch: dict[int, list[Point]] = defaultdict(list)
        for point in self.at(scale, variant):
            by_batch[point.batch].append(point)
        return best_of_each(by_batch)

    @property
    def has_own_losses(self) -> bool:
        return any(point.variant.workers is not None and point.as_published() for point in self.points)

    def as_published(self, *, only: bool = False) -> "Group":
        """The points as `Point.as_published`; those without one stay as they are or, with `only`, are dropped."""
        points = [point.as_published() or (None if only else point) for point in self.points]
        return Group(self.title, tuple(point for point in points if point is not None))

    def at(self, scale: str, variant: Variant) -> list[Point]:
        return [point for point in self.points if (point.scale, point.variant) == (scale, variant)]


def pool(runs: Iterable[Run]) -> tuple[list[Point], list[Problem]]:
    """Runs that differ in their seed alone become one point; a seed that is there twice counts once."""
    by_settings: dict[str, dict[int, Run]] = defaultdict(dict)
    problems = []
    for run in runs:
        seeds = by_settings[json.dumps([run.settings, run.corpus], sort_keys=True, default=str)]
        if run.seed in seeds:
            reason = f"the same settings and seed as {seeds[run.seed].folder}: counted once"
            problems.append(Problem(str(run.folder), "repeated", reason))
        else:
            seeds[run.seed] = run
    return [Point(tuple(seeds.values())) for seeds in by_settings.values()], problems


def groups(points: Iterable[Point]) -> list[Group]:
    """Points by corpus and token budget. Budgets of different scales go together where they are the same number of
    tokens a parameter (in two digits), or the flavors' own budgets."""
    by_corpus: dict[tuple, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        by_corpus[point.first.corpus][point.scale].append(point)
    pooled = []
    for corpus, by_scale in by_corpus.items():
        by_budget: dict[str, list[Point]] = defaultdict(list)
        for at_scale in by_scale.values():
            for budget, members in _budgets(at_scale).items():
                by_budget[budget] += members
        for budget, members in by_budget.items():
            title = f"{_corpus_title(dict(corpus))}; {_budget_title(budget, members)}"
            pooled.append(Group(title, tuple(members)))
    return sorted(pooled, key=lambda group: group.title)


def best(points: Sequence[Point]) -> Choice | None:
    """The point of least loss; None if all have diverged or there is none.

    Points are compared by the seeds that all of them have, if there are any: the best of a search with one seed stays
    the best when it is run with others.
    """
    finite = [point for point in points if math.isfinite(point.loss)]
    common = set.intersection(*({run.seed for run in point.runs} for point in finite)) if finite else set()

    def compared(point: Point) -> float:
        return statistics.fmean(run.loss for run in point.runs if not common or run.seed in common)

    return Choice(min(finite, key=compared), points) if finite else None


def best_of_each(columns: Mapping[Column, Sequence[Point]]) -> dict[Column, Choice]:
    """The best point of each column that has one."""
    return {column: choice for column, points in columns.items() if (choice := best(points)) is not None}


def best_at_common_batches(columns: Mapping[Column, Sequence[Point]]) -> dict[Column, Choice]:
    """The best point of each column at the batches that all columns have; at any batch where there is none such."""
    common = set.intersection(*({point.batch for point in points} for points in columns.values())) if columns else set()
    return best_of_each(
        {
            column: [point for point in points if point.batch in common or not common]
            for column, points in columns.items()
        }
    )


def _parameters(point: Point) -> int:
    return point.first.size.parameters


def _budgets(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Points of one corpus and scale by token budget. Two budgets are one if they differ by less than a step, which is
    what batches that do not divide it leave over."""
    budgets: list[list[Point]] = []
    for point in sorted(points, key=lambda point: -point.first.tokens):
        for members in budgets:
            if members[0].first.tokens - point.first.tokens < max(point.batch, members[0].batch):
                members.append(point)
                break
        else:
            budgets.append([point])
    labels = [_budget(members) for members in budgets]
    return {
        label if labels.count(label) == 1 else f"{members[0].first.tokens:,} tokens": members
        for label, members in zip(labels, budgets, strict=True)
    }


def _budget(members: Sequence[Point]) -> str:
    own = members[0].first.size.token_budget
    if any(0 <= own - point.first.tokens < point.batch for point in members):
        return "about 20 tokens a parameter"
    each = members[0].first.tokens / members[0].first.size.parameters
    return f"{float(f'{each:.2g}'):g} tokens a parameter"


def _budget_title(budget: str, members: Sequence[Point]) -> str:
    tokens = {point.scale: point.first.tokens for point in sorted(members, key=_parameters)}
    shown = ", ".join(f"{scale}: {count:,}" for scale, count in tokens.items())
    return f"{budget} ({shown})" if not budget.endswith(" tokens") else f"{budget} ({', '.join(tokens)})"


def _corpus_title(corpus: Mapping[str, Any]) -> str:
    names = corpus["corpus"] if isinstance(corpus["corpus"], tuple) else (corpus["corpus"],)
    weights = f" ({' : '.join(f'{weight:g}' for weight in corpus['weights'])})" if corpus["weights"] else ""
    digests = f" (sha256 {', '.join(digest[:8] for digest in corpus['sha256'])})" if corpus["sha256"] else ""
    parts = [f"corpus {' + '.join(names)}{weights}{digests}"]
    if corpus["text_field"] != "text":
        parts.append(f"field {corpus['text_field']}")
    if corpus["predict_bos"]:
        parts.append("BOS behind each EOS counted")
    entries = f" of {corpus['vocabulary']} entries" if "vocabulary" in corpus else ""
    parts.append(f"tokenizer {corpus['tokenizer']}{entries}")
    held_out = f"{corpus['held_out']} sequences of {corpus['seq_len']} tokens held out"
    parts.append(held_out + (f" from {corpus['validation']}" if corpus["validation"] else ""))
    return ", ".join(parts)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
