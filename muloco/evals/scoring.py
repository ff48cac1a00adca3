"""Log-likelihoods of continuations: the requests of a task, on all ranks at once."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from muloco.evals.prefixes import Row, into_batches, lay_out
from muloco.model.attention import attention_mask


@dataclass(frozen=True)
class Continuation:
    """A request: the tokens whose probability is asked for, and those before them."""

    inputs: tuple[int, ...]
    """Everything but the last token, cut off in front to what the model takes."""
    targets: tuple[int, ...]
    """The tokens whose likelihood is asked for; the last ones of `inputs` predict them."""


Score = tuple[float, bool]
"""Log-likelihood in nats, and whether each token is the likeliest one."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores continuations with a model.

    All ranks hold the model (or a shard of it) and call it with the same continuations. The batches are those of a
    single rank, dealt out in turn; so the numbers do not depend on how many ranks there are.
    """

    model: nn.Module
    """`muloco.model.build`'s, wherever it is; FSDP2 may shard it."""
    device: torch.device
    batch_tokens: int
    """Tokens in a batch, padding included."""
    longest: int
    """Tokens in a sequence."""
    ranks: dist.ProcessGroup | None = None
    """Ranks that share the work; None: this one alone."""

    @torch.no_grad()
    def __call__(
        self, asked: Sequence[Continuation], progress: Callable[[int], object] = lambda count: None
    ) -> list[Score]:
        """The score of each, on every rank; `progress` is told how many more are done, of those on all ranks."""
        by_inputs: dict[tuple[int, ...], list[int]] = {}
        for index, continuation in enumerate(asked):
            by_inputs.setdefault(continuation.inputs, []).append(index)
        inputs, asks = list(by_inputs), list(by_inputs.values())
        batches = into_batches(lay_out(inputs, longest=2 * self.longest), tokens=self.batch_tokens)
        ranks, rank = (1, 0) if self.ranks is None else (self.ranks.size(), self.ranks.rank())
        own: dict[int, Score] = {}
        for turn in range(math.ceil(len(batches) / ranks)):
            # a rank without a batch takes the last one too: under FSDP2 all have to call the model equally often
            batch = batches[min(turn * ranks + rank, len(batches) - 1)]
            own |= self._score(batch, asks, asked)
            done = batches[turn * ranks : (turn + 1) * ranks]
            progress(sum(len(asks[number]) for rows in done for row in rows for number in row.paths))
        everyone = [own]
        if self.ranks is not None:
            everyone = [own] * ranks
            dist.all_gather_object(everyone, own, group=self.ranks)
        scores = {index: score for part in everyone for index, score in part.items()}
        return [scores[index] for index in range(len(asked))]

    def _score(
        self, rows: Sequence[Row], asks: Sequence[Sequence[int]], asked: Sequence[Continuation]
    ) -> dict[int, Score]:
        """The scores of the continuations in one batch, by their index in `asked`."""
        length = max(len(row.tokens) for row in rows)
        tokens, depths = torch.zeros(2, len(rows), length, dtype=torch.long)
        targets: list[int] = []
        places: list[int] = []
        spans: dict[int, slice] = {}
        for index, row in enumerate(rows):
            tokens[index, : len(row.tokens)] = torch.tensor(row.tokens)
            depths[index, : len(row.tokens)] = torch.tensor(row.depths)
            for number, path in row.paths.items():
                for ask in asks[number]:
                    wanted = asked[ask].targets
                    spans[ask] = slice(len(targets), len(targets) + len(wanted))
                    targets += wanted
                    places += [index * length + node for node in path[-len(wanted) :]]
        mask = attention_mask(self.model, torch.stack([row.mask(length) for row in rows]).to(self.device))
        with _head_at(self.model, torch.tensor(places, device=self.device)):
            logits = self.model(tokens.to(self.device), positions=depths.to(self.device), attention_masks=mask).float()
        target = torch.tensor(targets, device=self.device)
        likelihood = (logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(dim=1)).cpu()
        likeliest = (logits.argmax(dim=1) == target).cpu()
        return {ask: (float(likelihood[span].sum()), bool(likeliest[span].all())) for ask, span in spans.items()}


@contextlib.contextmanager
def _head_at(model: Any, places: torch.Tensor) -> Iterator[None]:
    """A context in which the model applies its output head only at these places of rows x length: logits are [places,
    vocabulary]. With a large vocabulary the head would otherwise take most of the time and memory. The model applies
    the head even if it is trained with a chunked loss, which otherwise applies it."""
    handle = model.lm_head.register_forward_pre_hook(lambda head, args: (args[0].flatten(0, 1)[places],))
    skips, model._skip_lm_head = model._skip_lm_head, False
    try:
        yield
    finally:
        model._skip_lm_head = skips
        handle.remove()
