"""Generation with remembered keys and values against one that computes everything again."""

import pytest
import torch

from muloco.model import build
from muloco.model.generation import _choose, generate

from ..run_on_disk import random_weights


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    model = build("tiny", "cpu", seq_len=64, dense=True)
    model.load_state_dict(random_weights())
    return model.eval()


def logits_after(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    positions = torch.arange(len(tokens))[None]
    with torch.no_grad():
        masks = model.get_attention_masks(positions)
        return model(torch.tensor([tokens]), positions=positions, attention_masks=masks)[0, -1]


@pytest.mark.parametrize("prompt", [[5], [3, 1, 4, 1, 5, 9, 2, 6]])
def test_greedy_is_the_likeliest_token_every_time(model: torch.nn.Module, prompt: list[int]) -> None:
    found = list(generate(model, prompt, longest=16))
    expected = list(prompt)
    while len(expected) < 16:
        expected.append(int(logits_after(model, expected).argmax()))
    assert [*prompt, *found] == expected
    assert len(set(found)) > 5, "the model says too little for the test"
    assert list(generate(model, prompt, longest=16)) == found, "something was remembered"


def test_draws_follow_the_softmax_of_the_top_k(model: torch.nn.Module) -> None:
    generator, logits = torch.Generator().manual_seed(0), logits_after(model, [7, 8])
    best = logits.topk(3)
    shares = (best.values / 0.5).softmax(dim=0).tolist()
    draws = [_choose(logits, 0.5, 3, generator) for _ in range(2000)]
    for token, share in zip(best.indices.tolist(), shares, strict=True):
        assert draws.count(token) / 2000 == pytest.approx(share, abs=4 * (share * (1 - share) / 2000) ** 0.5 + 1e-9)
    one, same, other = (list(generate(model, [7], longest=12, temperature=2.0, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_global_random_state_is_left_alone(model: torch.nn.Module) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    list(generate(model, [7], longest=10, temperature=1.0))
    assert torch.equal(torch.rand(1), expected)


def test_what_cannot_be_is_refused(model: torch.nn.Module) -> None:
    for settings in ({"temperature": -1.0}, {"top_k": 0}):
        with pytest.raises(ValueError, match="temperature >= 0 and top_k >= 1"):
            list(generate(model, [1], longest=5, **settings))
    with pytest.raises(ValueError, match="got 0 tokens"):
        list(generate(model, [], longest=5))
