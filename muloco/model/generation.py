"""Text from a model, token by token, with keys and values remembered where all layers take the same mask."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from muloco.model.attention import remembering


@torch.no_grad()
def generate(
    model: Any,
    prompt: Sequence[int],
    *,
    longest: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Yields the tokens that follow a prompt, one after the other.

    Args:
        model: with dense attention (`build(..., dense=True)`), in evaluation mode. It is not to be called meanwhile.
        prompt: at least one token.
        longest: number of tokens, the prompt's included, after which it ends; at most the model's `seq_len`.
        temperature: of the softmax; 0: always the likeliest token.
        top_k: draw from this many likeliest tokens only; None: from all.
        seed: of the draws. They use a generator of their own.

    Raises:
        ValueError: temperature or top_k out of range, or an empty prompt.
    """
    if temperature < 0 or (top_k is not None and top_k < 1) or not prompt:
        raise ValueError(
            f"a prompt of at least one token, temperature >= 0 and top_k >= 1 are needed; "
            f"got {len(prompt)} tokens, {temperature} and {top_k}"
        )
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    new = list(prompt)
    length = len(new)
    causal = torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()
    remembers = model.has_one_mask  # otherwise keys and values of windows would have to be forgotten again
    with remembering(model) if remembers else contextlib.nullcontext():
        while length < longest:
            tokens = torch.tensor([new], device=device)
            positions = torch.arange(length - len(new), length, device=device)[None]
            masks = (causal if len(new) > 1 else None) if remembers else model.get_attention_masks(positions)
            logits = model(tokens, positions=positions, attention_masks=masks)[0, -1]
            token = _choose(logits.float().cpu(), temperature, top_k, generator)
            yield token
            new = [token] if remembers else [*new, token]
            length += 1


def _choose(logits: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """A token by its logits, fp32 [vocabulary]."""
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    return int(torch.multinomial((logits / temperature).softmax(dim=0), 1, generator=generator))
