"""The CPU's attention against attention written out, one query at a time, in double precision."""

import pytest
import torch
from packaging.version import Version
from torch.nn.attention.flex_attention import flex_attention

import muloco.model
from muloco._torchtitan import FlexAttention
from muloco.model.attention import DenseDocumentAttention, document_mask

TORCH = Version(torch.__version__).release
POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7]])


def test_mask_is_causal_within_a_document() -> None:
    mask = document_mask(POSITIONS)
    assert mask.shape == (2, 1, 8, 8)
    for row, positions in enumerate(POSITIONS.tolist()):
        for query in range(8):
            for key in range(8):
                same_document = all(position > 0 for position in positions[key + 1 : query + 1])
                assert bool(mask[row, 0, query, key]) == (key <= query and same_document)


def attention_by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q, k, v: fp64 [B, L, heads, width]."""
    out = torch.zeros_like(v)
    for row, positions in enumerate(POSITIONS.tolist()):
        for query, position in enumerate(positions):
            seen = slice(query - position, query + 1)
            scores = torch.einsum("hd,khd->hk", q[row, query], k[row, seen]) / q.shape[-1] ** 0.5
            out[row, query] = torch.einsum("hk,khd->hd", scores.softmax(-1), v[row, seen])
    return out


def test_forward_and_gradients() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 8, 3, 16, requires_grad=True) for _ in range(3)]
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    out = DenseDocumentAttention.Config().build()(*inputs, attention_masks=document_mask(POSITIONS))
    expected = attention_by_hand(*doubles)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(out.shape)
    (out * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for mine, reference in zip(inputs, doubles, strict=True):
        torch.testing.assert_close(mine.grad.double(), reference.grad, rtol=1e-4, atol=1e-5)


def test_documents_in_one_row_do_not_see_each_other() -> None:
    """A packed row gives the logits that each document gives alone."""
    torch.manual_seed(0)
    model = muloco.model.build("tiny", "cpu", seq_len=16)
    tokens = torch.randint(0, 2048, (1, 10))
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]])
    with torch.no_grad():
        packed = model(tokens, positions, model.get_attention_masks(positions))
        for part in (slice(0, 4), slice(4, 10)):
            alone = model(tokens[:, part], positions[:, part], model.get_attention_masks(positions[:, part]))
            torch.testing.assert_close(packed[:, part], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    "attention",
    [
        pytest.param(flex_attention, id="eager"),
        pytest.param(
            torch.compile(flex_attention),
            id="compiled",
            marks=[
                pytest.mark.full,
                pytest.mark.skipif(TORCH < (2, 12), reason="the CPU kernel of torch 2.11 aborts with several threads"),
            ],
        ),
    ],
)
def test_flex_attention_of_gpus_gives_the_same_logits(attention, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention has no backward pass on the CPU, but a forward pass. Rows are no multiple of its blocks of 128."""
    monkeypatch.setattr(FlexAttention, "_compiled_flex_attn", staticmethod(attention))  # torchtitan's own autotunes
    torch.manual_seed(0)
    length = 150
    ours = muloco.model.build("tiny", "cpu", seq_len=length)
    config = muloco.model.spec("tiny", seq_len=length).model
    for layer in config.layers:
        layer.attention.inner_attention = FlexAttention.Config()
    theirs = config.build()
    theirs.init_states()
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randint(0, 2048, (2, length))
    at, starts = torch.arange(length).expand(2, -1), torch.tensor([[37], [140]])
    positions = torch.where(at < starts, at, at - starts)
    with torch.no_grad():
        expected = theirs(tokens, positions, theirs.get_attention_masks(positions))
        logits = ours(tokens, positions, ours.get_attention_masks(positions))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
