"""Sequences that begin alike, laid into one row of a batch so that what they share is computed once.

A row is a tree of tokens, written down branch after branch: the possible endings of a question follow the question one
behind the other, each with positions that go on from the question's end, and none sees the others. So a row needs one
forward pass with a mask of who is whose ancestor, and no cache of keys and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch

SHARED = 0.5
"""Least share of a sequence that has to be in a row already for the sequence to be laid into it."""


@dataclass
class Row:
    """Token trees of one row; a node is a token, known by its place in the row."""

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    """Position of each node: its ancestors."""
    paths: dict[int, list[int]] = field(default_factory=dict)
    """The nodes of each sequence, by its number."""
    _branches: list[tuple[list[int], int]] = field(default_factory=list)
    """The nodes above each branch, and its length."""

    def add(self, number: int, sequence: Sequence[int], shared: int, above: list[int]) -> None:
        """Lays a sequence into the row; its first `shared` tokens are those of `above`."""
        first, new = len(self.tokens), sequence[shared:]
        self.tokens += new
        self.depths += range(shared, len(sequence))
        self._branches.append((above[:shared], len(new)))
        self.paths[number] = above[:shared] + list(range(first, first + len(new)))

    def mask(self, length: int) -> torch.Tensor:
        """Bool [length, length]: True where a node (first axis) sees another one, an ancestor or itself. Nodes behind
        the row's end see themselves."""
        sees = torch.eye(length, dtype=torch.bool)
        start = 0
        for above, count in self._branches:
            sees[start : start + count, above] = True
            sees[start : start + count, start : start + count] = torch.ones(count, count, dtype=torch.bool).tril()
            start += count
        return sees


def lay_out(sequences: Sequence[Sequence[int]], *, longest: int) -> list[Row]:
    """Lays sequences of tokens into rows of at most `longest` tokens. None is empty, none is longer than a row."""
    rows: list[Row] = []
    previous: Sequence[int] = ()
    above: list[int] = []
    for number in sorted(range(len(sequences)), key=lambda number: list(sequences[number])):
        sequence = sequences[number]
        shared = _shared(previous, sequence)
        fits = bool(rows) and len(rows[-1].tokens) + len(sequence) - shared <= longest
        if not fits or shared < SHARED * len(sequence):
            rows.append(Row())
            shared, above = 0, []
        rows[-1].add(number, sequence, shared, above)
        previous, above = sequence, rows[-1].paths[number]
    return rows


def into_batches(rows: Sequence[Row], *, tokens: int) -> list[list[Row]]:
    """Rows of like length together, the longest first. A batch has at most `tokens` tokens, padding included, unless
    one row alone has more."""
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        if not batches or len(batches[-1][0].tokens) * (len(batches[-1]) + 1) > tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the longest prefix of both."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))))
