"""A mixture of experts on several ranks of a worker: load balancing counts the tokens of all of them, and no others."""

import math
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import muloco.model
from muloco._torchtitan import FullAC, OptimizersContainer, ParallelDims, ParamGroupConfig
from muloco.model.architecture import register
from muloco.model.buffers import averaged_buffers
from muloco.outer.in_process import InProcessGroup
from muloco.sharding import gather, local

from ..outer.toy import Case
from ..outer.workers import run_workers
from .layouts import LENGTH, ROWS, Layout, build, packed_batch, parallelism_of
from .mixture import EXPERTS, LAYERS, MIXTURE, STEP

LAYOUTS: list[Layout] = [(2, 1, 1), (1, 2, 1), (1, 1, 2)]


def check(rank: int, store: str, layout: Layout) -> None:
    """Two workers, one after the other on the same ranks, take a step with load balancing and sync."""
    register(MIXTURE)
    world = math.prod(layout)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    group, case, biases, loops = InProcessGroup(2), Case(workers=2, interval=1), [], []
    for worker in (0, 1):
        checkpointing = FullAC.Config(preserve_rng_state=False) if layout == (1, 2, 1) else None
        model = build(layout, flavor="mixture-tiny", checkpointing=checkpointing)
        biases.append(averaged_buffers([model], MIXTURE))
        assert list(biases[worker]) == [f"layers.{layer}.moe.expert_bias_E" for layer in range(LAYERS)]
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        loops.append(case.loop(parameters, group.transport(worker), worker, fragments=None, buffers=biases[worker]))
        take_step(layout, worker, model, biases[worker])
    alone = [{name: local(bias).clone() for name, bias in own.items()} for own in biases]
    run_workers(group, lambda worker: loops[worker].after_inner_step(1))
    for name, zero in alone[0].items():
        assert not torch.equal(zero, alone[1][name])
        for bias in (zero, alone[1][name], local(biases[0][name])):
            assert torch.equal(bias, of_first_rank(bias)), f"rank {rank} has another {name} than rank 0"
        assert torch.equal(local(biases[0][name]), local(biases[1][name]))
        torch.testing.assert_close(local(biases[0][name]), (zero + alone[1][name]) / 2, rtol=0, atol=1e-7)
    dist.destroy_process_group()


def of_first_rank(tensor: Tensor) -> Tensor:
    value = tensor.clone()
    dist.broadcast(value, 0)
    return value


def take_step(layout: Layout, worker: int, model: nn.Module, biases: dict[str, Tensor]) -> None:
    """A step of torchtitan's optimizers on this rank's share of the worker's batch. The biases are compared with the
    choices of the routers of all ranks."""
    group = ParamGroupConfig(pattern=".*", optimizer_name="AdamW", optimizer_kwargs={"lr": 1e-3})
    optimizers = OptimizersContainer.Config(param_groups=[group], implementation="for-loop").build(model_parts=[model])
    balance = muloco.model.spec("mixture-tiny", seq_len=LENGTH).post_optimizer_build_fn
    balance(optimizers, [model], ParallelDims.from_config(parallelism_of(layout), math.prod(layout)))

    tokens, positions, _ = packed_batch()
    tokens = (tokens + 700 * worker) % 2048
    shares, share = layout[0] * layout[1], dist.get_rank() // layout[2]
    rows = slice(share * ROWS // shares, (share + 1) * ROWS // shares)
    counts = torch.zeros(LAYERS, EXPERTS)

    def count(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, out: tuple) -> None:
            counts[layer] += torch.bincount(gather(out[1]).flatten(), minlength=EXPERTS)

        return hook

    hooks = [model.layers[str(layer)].moe.router.register_forward_hook(count(layer)) for layer in range(LAYERS)]
    logits = model(tokens[rows], positions[rows], model.get_attention_masks(positions[rows]))
    for hook in hooks:  # before activation checkpointing computes them again
        hook.remove()
    logits.sum().backward()
    optimizers.step()
    dist.all_reduce(counts)
    for bias, seen in zip(biases.values(), counts, strict=True):
        way = STEP * torch.sign(seen.mean() - seen)
        torch.testing.assert_close(local(bias), way - way.mean(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["FSDP", "replicated", "TP"])
def test_ranks_of_a_worker_agree_and_a_sync_makes_workers_agree(layout: Layout, spawn_ranks) -> None:
    spawn_ranks(check, 2, layout)
