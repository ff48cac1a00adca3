"""Stacks of experts, fused projections and heads: the steps of their matrices as parameters of their own."""

import copy
import importlib
import math

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from muloco.optim.fused import parts
from muloco.pytorch import GPA, MuLoCo1, Muon
from muloco.sharding import gather, local, shard_like

from ..coefficients import MULOCO

newton_schulz = importlib.import_module("muloco.optim.newton_schulz")
LR, MOMENTUM, BETA2, DECAY = 0.05, 0.8, 0.7, 0.3
RULE = pytest.mark.parametrize("rule", ["muon", "normuon"])

CASES = [  # shape, options of the group, and the rows of each matrix in the order of the list
    ((12, 5), {"split": [6, 3, 3]}, [range(6), range(6, 9), range(9, 12)]),
    ((12, 5), {"split": [2, 1, 1]}, [[0, 1, 4, 5, 8, 9], [2, 6, 10], [3, 7, 11]]),
    ((7, 4), {"split": [5, 2]}, [range(5), range(5, 7)]),
    ((8, 3), {"split": [1, 1]}, [range(0, 8, 2), range(1, 8, 2)]),
    ((12, 5), {"per_head": 4}, [range(4), range(4, 8), range(8, 12)]),
    ((12, 5), {"split": [6, 3, 3], "per_head": 3}, [range(3), range(3, 6), range(6, 9), range(9, 12)]),
    ((10, 5), {"split": [3, 2], "per_head": [3, 2]}, [range(3), range(5, 8), range(3, 5), range(8, 10)]),
    ((3, 6, 4), {"layout": "stacked"}, [range(6)]),
    ((3, 6, 4), {"layout": "stacked", "split": [4, 2]}, [range(4), range(4, 6)]),
    ((3, 6, 4), {"layout": "stacked", "split": [1, 1]}, [range(0, 6, 2), range(1, 6, 2)]),
    ((3, 4, 6), {"layout": "stacked_transposed"}, [range(6)]),
    ((3, 4, 6), {"layout": "stacked_transposed", "split": [1, 1], "per_head": 3}, [range(0, 6, 2), range(1, 6, 2)]),
    ((5, 12), {"layout": "transposed", "split": [6, 3, 3]}, [range(6), range(6, 9), range(9, 12)]),
    ((5, 12), {"layout": "transposed", "per_head": 4}, [range(4), range(4, 8), range(8, 12)]),
    ((6, 2, 3), {"layout": "flatten", "split": [4, 2]}, [range(4), range(4, 6)]),
]
IDS = [f"{list(shape)} {options}" for shape, options, _ in CASES]
CASE = pytest.mark.parametrize(("shape", "options", "rows"), CASES, ids=IDS)


def matrices(tensor, options, rows):
    """The matrices [out, in] of a parameter, or of its gradient, by indices."""
    if "transposed" in options.get("layout", ""):
        tensor = tensor.mT
    whole = tensor if "stacked" in options.get("layout", "") else tensor.flatten(1)[None]
    return [matrix[list(chosen)] for matrix in whole for chosen in rows]


def gradient(shape, step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(shape, generator=generator)


def orthogonal(matrix):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for a, b, c in MULOCO:
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vh


def by_definition(x, gradients, rule):
    """Muon and NorMuon of one matrix in double precision."""
    x = x.double()
    rows, cols = x.shape
    momentum, second = torch.zeros_like(x), torch.zeros(rows, 1, dtype=x.dtype)
    for g in gradients:
        momentum = MOMENTUM * momentum + g.double()
        direction = orthogonal(momentum)
        if rule == "normuon":
            second = BETA2 * second + (1 - BETA2) * direction.square().mean(1, keepdim=True)
            direction = direction / (second.sqrt() + 1e-8)
            direction = math.sqrt(min(rows, cols)) * direction / direction.norm()
        x = x * (1 - LR * DECAY) - LR * math.sqrt(rows / cols) * direction
    return x


def build(params, rule, kind=Muon, **options):
    group = {"params": params, "algorithm": rule, **options}
    if rule == "normuon":
        group["beta2"] = BETA2
    return kind([group], LR, momentum=MOMENTUM, weight_decay=DECAY)


def train(optimizer, params, steps):
    for step in steps:
        for index, param in enumerate(params):
            param.grad = gradient(param.shape, 100 * index + step).to(param.dtype)
        optimizer.step()


@pytest.fixture
def single_precision(monkeypatch):
    monkeypatch.setattr(newton_schulz, "_fast_dtype", lambda device_type: torch.float32)


@CASE
@RULE
def test_each_matrix_is_stepped_by_the_definition(shape, options, rows, rule, single_precision):
    start = gradient(shape, 77)
    param = nn.Parameter(start.clone())
    train(build([param], rule, **options), [param], range(3))
    gradients = [matrices(gradient(shape, step), options, rows) for step in range(3)]
    found = matrices(param.detach(), options, rows)
    for index, (actual, first) in enumerate(zip(found, matrices(start, options, rows), strict=True)):
        expected = by_definition(first, [given[index] for given in gradients], rule)
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)


@CASE
@RULE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bits_are_those_of_the_matrices_as_parameters_of_their_own(shape, options, rows, rule, dtype):
    """Of two layers. With 32 inputs, as PyTorch rounds the last elements of a bfloat16 tensor otherwise than those that
    fill a vector of the processor."""
    turned = "transposed" in options.get("layout", "")
    shape = (*shape[:-2], 32, shape[-1]) if turned else (*shape[:-1], 32)
    starts = [gradient(shape, 77 + layer).to(dtype) for layer in range(2)]
    layers = [nn.Parameter(start.clone()) for start in starts]
    fused = build(layers, rule, **options)
    apart = [[nn.Parameter(matrix.clone()) for matrix in matrices(start, options, rows)] for start in starts]
    unfused = build([param for params in apart for param in params], rule)
    for step in range(3):
        for layer, params in enumerate(apart):
            layers[layer].grad = gradient(shape, 10 * layer + step).to(dtype)
            for own, its in zip(params, matrices(layers[layer].grad, options, rows), strict=True):
                own.grad = its.contiguous()
        fused.step()
        unfused.step()
    for layer, params in enumerate(apart):
        for own, its in zip(params, matrices(layers[layer].detach(), options, rows), strict=True):
            assert torch.equal(own, its)


@RULE
@pytest.mark.parametrize("kind", [Muon, MuLoCo1, GPA])
def test_a_checkpoint_continues_to_the_bit(kind, rule):
    def fresh():
        params = [nn.Parameter(gradient((3, 6, 4), 9)), nn.Parameter(gradient((9, 5), 8))]
        groups = [
            {"params": params[:1], "algorithm": rule, "layout": "stacked", "split": [4, 2]},
            {"params": params[1:], "algorithm": rule, "split": [3, 3, 3], "per_head": [3, 3, 1]},
        ]
        return params, kind(groups)

    params, optimizer = fresh()
    train(optimizer, params, range(3))
    saved = copy.deepcopy(([param.detach() for param in params], optimizer.state_dict()))
    train(optimizer, params, range(3, 6))
    others, resumed = fresh()
    for other, value in zip(others, saved[0], strict=True):
        other.data.copy_(value)
    resumed.load_state_dict(saved[1])
    train(resumed, others, range(3, 6))
    assert all(map(torch.equal, params, others))
    assert resumed.param_groups[1]["split"] == (3, 3, 3) and resumed.param_groups[1]["per_head"] == (3, 3, 1)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"split": [4, 3]}, r"parameter of shape \(6, 4\) has 6 outputs, .* not a multiple of the 7 of split \[4, 3\]"),
        ({"per_head": 4}, "has a part of 6 outputs, which are not a multiple of per_head 4"),
        ({"split": [4, 2], "per_head": [2, 2, 2]}, r"has 2 parts, but per_head \[2, 2, 2\] has 3 numbers"),
        ({"split": [3, 0]}, r"split\[1\] must be an integer of at least 1, not 0"),
        ({"split": 3}, "split must be a list that is not empty, not 3"),
        ({"split": []}, "split must be a list that is not empty"),
        ({"per_head": 1.5}, "per_head must be an integer of at least 1, not 1.5"),
        ({"split": [3, 3], "algorithm": "adamw"}, "split has no effect in a parameter group with algorithm 'adamw'"),
    ],
)
def test_what_does_not_fit_is_refused(group, message):
    with pytest.raises(ValueError, match=message):
        Muon([{"params": [nn.Parameter(torch.ones(6, 4))], **group}])


def test_the_work_counts_the_matrices_of_a_fused_projection():
    assert [(part.rows, part.heads) for part in parts(12, (2, 1, 1), (3, None, 1))] == [(3, 2), (3, 1), (1, 3)]


PLACED = [  # shape, options, placement: experts that do not divide, rows of a part on two ranks, experts on one rank
    ((3, 5, 4), {"layout": "stacked"}, Shard(0)),
    ((3, 6, 4), {"layout": "stacked", "split": [4, 2]}, Shard(0)),
    ((1, 6, 4), {"layout": "stacked", "split": [1, 1]}, Shard(0)),
    ((3, 6, 4), {"layout": "stacked", "split": [4, 2]}, Shard(1)),
    ((3, 6, 4), {"layout": "stacked", "split": [1, 1], "per_head": 3}, Shard(2)),
    ((3, 4, 6), {"layout": "stacked_transposed", "split": [4, 2]}, Shard(2)),
    ((3, 4, 6), {"layout": "stacked_transposed"}, Shard(1)),
    ((12, 5), {"split": [6, 3, 3]}, Shard(0)),
    ((7, 5), {"split": [4, 3]}, Shard(0)),
    ((12, 5), {"split": [2, 1, 1]}, Shard(1)),
    ((12, 5), {"per_head": 4}, Shard(0)),
    ((5, 12), {"layout": "transposed", "split": [6, 3, 3]}, Shard(0)),
    ((12, 5), {"split": [6, 3, 3], "per_head": 3}, Replicate()),
]


def check_ranks(rank, store):
    newton_schulz._fast_dtype = lambda device_type: torch.float32
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    folder = store.removeprefix("file://") + "-checkpoint"
    for rule in ("muon", "normuon", "adamw", "lion"):
        check_sharded(mesh, rule)
    for rule in ("muon", "normuon"):
        check_checkpoint(mesh, rule, f"{folder}-{rule}")
    dist.destroy_process_group()


def check_sharded(mesh, rule):
    plain = [nn.Parameter(gradient(shape, 50 + index)) for index, (shape, *_) in enumerate(PLACED)]
    sharded = [
        nn.Parameter(distribute_tensor(param.detach().clone(), mesh, [placement], src_data_rank=None))
        for param, (*_, placement) in zip(plain, PLACED, strict=True)
    ]
    optimizers = []
    for params in (plain, sharded):
        groups = [
            {"params": [param], "algorithm": rule} | (options if rule in ("muon", "normuon") else {})
            for param, (_, options, _) in zip(params, PLACED, strict=True)
        ]
        optimizers.append(Muon(groups, LR, weight_decay=DECAY, cautious_weight_decay=True))
    for step in range(3):
        for index, (one, other) in enumerate(zip(plain, sharded, strict=True)):
            one.grad = gradient(one.shape, 100 * step + index)
            other.grad = distribute_tensor(one.grad, mesh, other.placements, src_data_rank=None)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(plain, sharded, strict=True):
        torch.testing.assert_close(local(other.detach()), shard_like(one.detach(), other), rtol=0, atol=1e-5)
        for name, value in optimizers[0].state[one].items():
            torch.testing.assert_close(gather(optimizers[1].state[other][name]), value, rtol=1e-4, atol=1e-5)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(gradient((3, 6, 4), 1))
        self.wqkv = nn.Parameter(gradient((12, 5), 2))

    def optimizer(self, rule):
        groups = [
            {"params": [("w1", self.w1)], "algorithm": rule, "layout": "stacked", "split": [1, 1]},
            {"params": [("wqkv", self.wqkv)], "algorithm": rule, "split": [6, 3, 3], "per_head": [3, 3, 1]},
        ]
        return Muon(groups, LR)


def check_checkpoint(mesh, rule, folder):
    """Saved on two ranks; continued on two to the bit, and on one to rounding."""

    def train_both(model, optimizer, steps):
        for step in steps:
            for index, param in enumerate((model.w1, model.wqkv)):
                value = gradient(param.shape, 100 * index + step)
                whole = not hasattr(param, "placements")
                param.grad = value if whole else distribute_tensor(value, mesh, param.placements, src_data_rank=None)
            optimizer.step()

    def state(model, optimizer):
        return {"m": model.state_dict(), "o": get_optimizer_state_dict(model, optimizer)}

    def load(model, optimizer):
        train_both(model, optimizer, [0])  # makes the state
        found = state(model, optimizer)
        dcp.load(found, checkpoint_id=folder)
        model.load_state_dict(found["m"])
        set_optimizer_state_dict(model, optimizer, found["o"])

    model = fully_shard(Experts(), mesh=mesh)
    optimizer = model.optimizer(rule)
    train_both(model, optimizer, range(3))
    dcp.save(state(model, optimizer), checkpoint_id=folder)
    train_both(model, optimizer, range(3, 6))
    again = fully_shard(Experts(), mesh=mesh)
    resumed = again.optimizer(rule)
    load(again, resumed)
    train_both(again, resumed, range(3, 6))
    alone = Experts()
    on_one = alone.optimizer(rule)
    load(alone, on_one)
    train_both(alone, on_one, range(3, 6))
    for param, other, single in zip(model.parameters(), again.parameters(), alone.parameters(), strict=True):
        assert torch.equal(local(param), local(other)), "not resumed to the bit"
        torch.testing.assert_close(gather(param.detach()), single.detach(), rtol=0, atol=1e-5)


def test_sharded_stacks_and_fused_projections_are_stepped_as_whole_ones(spawn_ranks):
    spawn_ranks(check_ranks, 2)
