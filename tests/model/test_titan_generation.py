"""Generation with torchtitan's models: what a forward pass of the whole text would choose."""

import pytest
import torch

from muloco.model import build
from muloco.model.architecture import Architecture
from muloco.model.generation import generate

from .small_titan import DEBUG_SIZES, small_models  # noqa: F401 (a fixture)


@pytest.mark.parametrize("kind", DEBUG_SIZES)
def test_each_token_is_the_likeliest_after_all_before(kind: str, small_models: Architecture) -> None:  # noqa: F811
    torch.manual_seed(0)
    model = build(f"small/{kind}", "cpu", seq_len=24, dense=True).eval()
    prompt = torch.randint(2048, (8,)).tolist()
    text = prompt + list(generate(model, prompt, longest=16))
    assert len(text) == 16
    positions = torch.arange(16)[None]
    with torch.no_grad():
        logits = model(torch.tensor([text]), positions=positions, attention_masks=model.get_attention_masks(positions))
    for place in range(7, 15):
        chosen, best = logits[0, place, text[place + 1]], logits[0, place].max()
        assert best - chosen < 1e-4
