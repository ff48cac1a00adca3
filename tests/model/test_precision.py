"""Autocast: what is bf16 and what is not, and gradients beside those of fp32, on several layouts of ranks."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from muloco._torchtitan import CompileConfig, CrossEntropyLoss, FullAC
from muloco.model import spec
from muloco.sharding import gather

from .layouts import LENGTH, ROWS, SEED, Layout, build, build_whole, packed_batch

LAYOUTS: dict[Layout, object] = {(1, 1, 1): FullAC.Config(), (2, 1, 1): None, (1, 2, 1): None, (1, 1, 2): None}


def test_products_are_bf16_and_what_is_summed_up_is_not() -> None:
    torch.manual_seed(SEED)
    model = spec("tiny", seq_len=LENGTH, autocast=True).model.build()
    model.init_states()
    given: dict[str, torch.dtype] = {}
    made: dict[str, torch.dtype] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.RMSNorm | nn.Embedding):

            def note(module, args, out, name=name) -> None:
                given[name], made[name] = args[0].dtype, out.dtype

            module.register_forward_hook(note)
    tokens, positions, labels = packed_batch()
    logits = model(tokens, positions, model.get_attention_masks(positions))
    cross_entropy(logits.float().flatten(0, 1), labels.flatten()).backward()
    assert made["tok_embeddings"] == torch.float32
    for layer in range(2):
        for norm in ("attention_norm", "ffn_norm"):
            assert given[f"layers.{layer}.{norm}"] == torch.float32, "the residual stream"
    assert given["norm"] == made["norm"] == torch.float32
    products = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert len(products) == 2 * 7 + 1 and all(made[name] == torch.bfloat16 for name in products)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


def error_against_fp32(layout: Layout, model: nn.Module) -> float:
    """|g - g_32| / |g_32| over all parameters, on one batch of which each data-parallel rank reads its share."""
    tokens, positions, labels = packed_batch()
    shares, share = layout[0] * layout[1], dist.get_rank() // layout[2]
    rows = slice(share * ROWS // shares, (share + 1) * ROWS // shares)
    logits = model(tokens[rows], positions[rows], model.get_attention_masks(positions[rows]))
    loss_of = CrossEntropyLoss.Config().build(compile_config=CompileConfig(enable=False))
    loss_of(logits, labels[rows], torch.tensor(ROWS * LENGTH))[0].backward()
    whole = build_whole()
    logits = whole(tokens, positions, whole.get_attention_masks(positions))
    cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    errors, sizes = [], []
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        errors.append((gather(ours.grad) - theirs.grad).norm())
        sizes.append(theirs.grad.norm())
    return float(torch.stack(errors).norm() / torch.stack(sizes).norm())


def check(rank: int, store: str) -> None:
    for layout, checkpointing in LAYOUTS.items():
        world = layout[0] * layout[1] * layout[2]
        if rank < world:
            name = f"{store}-{'-'.join(map(str, layout))}"
            dist.init_process_group(
                "gloo", init_method=name, rank=rank, world_size=world, timeout=timedelta(seconds=60)
            )
            error = error_against_fp32(layout, build(layout, checkpointing=checkpointing, precision="autocast"))
            assert 1e-3 < error < 0.03, f"{layout}: {error}"
            dist.destroy_process_group()


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_gradients_are_those_of_fp32_up_to_bf16_on_every_kind_of_layout(spawn_ranks) -> None:
    """Activations computed again in the backward pass, sharded, replicated and divided weights."""
    spawn_ranks(check, 2)
