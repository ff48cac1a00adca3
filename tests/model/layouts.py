"""A model on a layout of ranks, as torchtitan's trainer would build it, and a batch for it."""

import math
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

import muloco.model
from muloco._torchtitan import (
    CompileConfig,
    CrossEntropyLoss,
    DebugConfig,
    ParallelDims,
    ParallelismConfig,
    TrainingConfig,
)
from muloco.sharding import gather

LENGTH, ROWS, SEED = 32, 4, 7

Layout = tuple[int, int, int]
"""Ranks to shard over, to replicate over, of tensor parallelism."""


def build(
    layout: Layout, *, flavor: str = "tiny", checkpointing=None, compiled: bool = False, precision: str = "float32"
) -> nn.Module:
    """The order of torchtitan/trainer.py: seed, shapes, ranks, values. `precision` is as in a config."""
    from torchtitan.distributed.utils import set_spmd_backend

    parallelism = parallelism_of(layout)
    set_spmd_backend("partial_dtensor")
    spec = muloco.model.spec(flavor, seq_len=LENGTH, autocast=precision == "autocast")
    torch.manual_seed(SEED)
    spec.model.update_from_config(
        config=SimpleNamespace(parallelism=parallelism, training=TrainingConfig(seq_len=LENGTH), debug=DebugConfig())
    )
    with torch.device("meta"):
        model = spec.model.build()
    model = spec.parallelize_fn(
        model,
        parallel_dims=ParallelDims.from_config(parallelism, math.prod(layout)),
        training=TrainingConfig(mixed_precision_param="bfloat16" if precision == "bfloat16" else "float32"),
        parallelism=parallelism,
        compile_config=CompileConfig(enable=compiled),
        ac_config=checkpointing,
        dump_folder="",
    )
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.init_states()
    return model


def parallelism_of(layout: Layout) -> ParallelismConfig:
    """As in torchtitan's config."""
    shard, replicate, tensor = layout
    return ParallelismConfig(
        data_parallel_shard_degree=shard,
        data_parallel_replicate_degree=replicate,
        tensor_parallel_degree=tensor,
        spmd_backend="partial_dtensor",
    )


def build_whole(flavor: str = "tiny") -> nn.Module:
    torch.manual_seed(SEED)
    return muloco.model.build(flavor, "cpu", seq_len=LENGTH)


def packed_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, positions and labels [ROWS, LENGTH], two documents a row."""
    tokens = torch.randint(0, 2048, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    starts = torch.tensor([[5], [11], [16], [23]])
    at = torch.arange(LENGTH).expand(ROWS, -1)
    return tokens[:, :-1], torch.where(at < starts, at, at - starts), tokens[:, 1:]


def check_gradients(layout: Layout, sharded: nn.Module, whole: nn.Module, *, compiled: bool = False) -> None:
    """Loss and gradients of one batch, of which each data-parallel rank reads its share."""
    tokens, positions, labels = packed_batch()
    shares, share = layout[0] * layout[1], dist.get_rank() // layout[2]
    rows = slice(share * ROWS // shares, (share + 1) * ROWS // shares)
    logits = sharded(
        tokens[rows], positions=positions[rows], attention_masks=sharded.get_attention_masks(positions[rows])
    )
    loss_of = CrossEntropyLoss.Config().build(compile_config=CompileConfig(enable=compiled))
    loss, _ = loss_of(logits, labels[rows], torch.tensor(ROWS * LENGTH))
    loss.backward()
    logits = whole(tokens, positions=positions, attention_masks=whole.get_attention_masks(positions))
    expected = cross_entropy(logits.flatten(0, 1), labels.flatten())
    expected.backward()
    total = loss.detach().clone()
    dist.all_reduce(total)  # a sum over shares, and each tensor-parallel rank has all of its share's
    torch.testing.assert_close(total / layout[2], expected.detach(), rtol=1e-5, atol=1e-5)
    for (name, parameter), other in zip(whole.named_parameters(), sharded.parameters(), strict=True):
        assert_close(gather(other.grad), parameter.grad, 1e-4, f"{layout}: gradient of {name}")


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str) -> None:
    """Equal up to a share of the largest element."""
    error = (actual - expected).abs().max().item() / expected.abs().max().item()
    assert error < tolerance, f"{what} is off by {error:.1e} of its largest element"
