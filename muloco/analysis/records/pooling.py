"""From runs to points: seeds pooled, groups that are never mixed, and the best point of a grid."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from muloco.analysis.records.method import Variant
from muloco.analysis.records.runs import Problem, Run
from muloco.model.architecture import Flavor

RATE = "optimizer.lr"
_FOLLOWS = ("training.steps", "training.tokens", "optimizer.weight_decay")
"""Fields that follow from the batch, as a rule."""


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
    def size(self) -> Flavor:
        return self.first.size

    @property
    def scale(self) -> str:
        return self.first.scale

    @property
    def batch(self) -> int:
        """Tokens in an inner step."""
        return self.first.batch

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.first.settings

    @property
    def loss(self) -> float:
        """Mean over the seeds; infinite if one of them has diverged."""
        return statistics.fmean(run.loss for run in self.runs)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None with one."""
        return statistics.stdev(run.loss for run in self.runs) if len(self.runs) > 1 else None

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
class Group:
    """Points of one corpus and one token budget."""

    title: str
    points: tuple[Point, ...]

    @property
    def scales(self) -> list[str]:
        """Smallest first."""
        return list({point.scale: None for point in sorted(self.points, key=lambda point: point.size.parameters)})

    @property
    def variants(self) -> list[Variant]:
        """In the order of the tables."""
        return sorted({point.variant for point in self.points}, key=lambda variant: variant.order)

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
    found = []
    for corpus, by_scale in by_corpus.items():
        by_budget: dict[str, list[Point]] = defaultdict(list)
        for at_scale in by_scale.values():
            for budget, members in _budgets(at_scale).items():
                by_budget[budget] += members
        found += [
            Group(f"{_corpus_title(dict(corpus))}; {_budget_title(budget, members)}", tuple(members))
            for budget, members in by_budget.items()
        ]
    return sorted(found, key=lambda group: group.title)


def best(points: Sequence[Point]) -> Point | None:
    """The point of least loss; None if all have diverged or there is none.

    Points are compared by the seeds that all of them have, if there are any: the best of a search with one seed stays
    the best when it is run with others.
    """
    finite = [point for point in points if math.isfinite(point.loss)]
    common = set.intersection(*({run.seed for run in point.runs} for point in finite)) if finite else set()

    def compared(point: Point) -> float:
        return statistics.fmean(run.loss for run in point.runs if not common or run.seed in common)

    return min(finite, key=compared, default=None)


def at_common_batches(columns: Mapping[str, list[Point]]) -> dict[str, list[Point]]:
    """The points at batches that all columns have, or all points where there is no such batch."""
    common = set.intersection(*({point.batch for point in points} for points in columns.values()))
    return {
        column: [point for point in points if point.batch in common] if common else points
        for column, points in columns.items()
    }


def choice(chosen: Point, among: Sequence[Point]) -> str:
    """What the best point has been chosen from: fields that differ, and whether its learning rate is at an edge."""
    if len(among) == 1:
        return "the only one"
    values: dict[str, list[Any]] = {}
    for field in chosen.settings:
        different = {json.dumps(point.settings[field]): point.settings[field] for point in among}
        if len(different) > 1 and field not in _FOLLOWS:
            values[field] = sorted(different.values(), key=lambda value: (str(type(value)), value))
    fields = [
        f"{field} {_shown(chosen.settings[field])} of {', '.join(map(_shown, tried))}"
        for field, tried in values.items()
    ]
    return "; ".join([*fields, *([edge] if (edge := edge_of_grid(chosen, among)) else [])])


def edge_of_grid(chosen: Point, among: Sequence[Point]) -> str:
    """Says that the inner learning rate is the first or last of those tried with all other settings the same."""

    def others(point: Point) -> dict[str, Any]:
        return {field: value for field, value in point.settings.items() if field != RATE}

    tried = sorted(point.settings[RATE] for point in among if others(point) == others(chosen))
    rate = chosen.settings[RATE]
    if len(tried) == 1:
        return "one inner lr"
    if rate in (tried[0], tried[-1]):
        return f"inner lr at the {'lower' if rate == tried[0] else 'upper'} edge of its grid: the best may lie beyond"
    return ""


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
    own = members[0].size.token_budget
    if any(0 <= own - point.first.tokens < point.batch for point in members):
        return "about 20 tokens a parameter"
    each = members[0].first.tokens / members[0].size.parameters
    return f"{float(f'{each:.2g}'):g} tokens a parameter"


def _budget_title(budget: str, members: Sequence[Point]) -> str:
    tokens = {point.scale: point.first.tokens for point in sorted(members, key=lambda point: point.size.parameters)}
    shown = ", ".join(f"{scale}: {count:,}" for scale, count in tokens.items())
    return f"{budget} ({shown})" if not budget.endswith(" tokens") else f"{budget} ({', '.join(tokens)})"


def _corpus_title(corpus: Mapping[str, Any]) -> str:
    names = corpus["corpus"] if isinstance(corpus["corpus"], tuple) else (corpus["corpus"],)
    weights = f" ({' : '.join(f'{weight:g}' for weight in corpus['weights'])})" if corpus["weights"] else ""
    digest = f" (sha256 {', '.join(one[:8] for one in corpus['sha256'])})" if corpus["sha256"] else ""
    parts = [f"corpus {' + '.join(names)}{weights}{digest}"]
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
