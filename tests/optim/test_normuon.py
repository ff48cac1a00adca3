"""NorMuon against a plain loop in double precision, written from the paper: alone, sharded and in MuLoCo1."""

import copy
import importlib
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from muloco.model.flavors import flavor
from muloco.pytorch import MuLoCo1, Muon
from muloco.settings.optimizer import Optimizer, Role
from muloco.sharding import gather, local, shard_like

from ..coefficients import MULOCO

newton_schulz = importlib.import_module("muloco.optim.newton_schulz")
BETA1, BETA2, EPS, LR = 0.8, 0.7, 1e-8, 0.05


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    monkeypatch.setattr(newton_schulz, "_fast_dtype", lambda device_type: torch.float32)


def gradient(shape, step):
    """Its rows differ in scale, so that their second moments do."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(shape, generator=generator) * torch.linspace(0.1, 3, shape[-2]).unsqueeze(-1)


def newton_schulz_by_svd(matrix):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for a, b, c in MULOCO:
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vh


def paper(x, gradients, weight_decay=0.0):
    """Algorithm 1 of the paper, row by row, for an m x n matrix in double precision."""
    x = x.double()
    m, n = x.shape
    momentum, second = torch.zeros_like(x), [0.0] * m
    for g in gradients:
        momentum = BETA1 * momentum + (1 - BETA1) * g.double()
        orthogonal = newton_schulz_by_svd(momentum)
        rows = []
        for row in range(m):
            second[row] = BETA2 * second[row] + (1 - BETA2) * sum(v * v for v in orthogonal[row].tolist()) / n
            rows.append(orthogonal[row] / (math.sqrt(second[row]) + EPS))
        normalized = torch.stack(rows)
        rate = 0.2 * LR * math.sqrt(m * n) / normalized.norm()
        x = x - LR * weight_decay * x - rate * normalized
    return x, torch.tensor(second, dtype=torch.float64)


def build(params, layout=None, kind=Muon, **options):
    group = {"params": params, "algorithm": "normuon", "layout": layout, "beta2": BETA2}
    return kind([group], LR, momentum=BETA1, adjust_lr="rms_norm", **options)


@pytest.mark.parametrize("rate", ["float", "tensor"])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 1), (1, 5)])
def test_is_the_papers(shape, rate):
    start = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    param = nn.Parameter(start.clone())
    optimizer = build([param], weight_decay=0.3)
    if rate == "tensor":
        optimizer.param_groups[0]["lr"] = torch.tensor(LR)
    for step in range(4):
        param.grad = gradient(shape, step)
        optimizer.step()
    expected, second = paper(start, [gradient(shape, step) for step in range(4)], weight_decay=0.3)
    torch.testing.assert_close(param.detach().double(), expected, rtol=0, atol=1e-5)
    state = optimizer.state[param]
    assert set(state) == {"momentum_buffer", "second_moment"} and state["second_moment"].shape == (shape[0], 1)
    torch.testing.assert_close(state["second_moment"].flatten().double(), second, rtol=1e-4, atol=0)


def test_every_layout_steps_its_matrices_as_single_ones():
    start = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(9))
    stacked = nn.Parameter(start.clone())
    turned = nn.Parameter(start[0].T.contiguous())
    flat = nn.Parameter(start[0].reshape(4, 3, 2).clone())
    optimizers = [build([stacked], "stacked"), build([turned], "transposed"), build([flat], "flatten")]
    for step in range(3):
        stacked.grad = torch.stack([gradient((4, 6), 10 * index + step) for index in range(3)])
        turned.grad, flat.grad = stacked.grad[0].T.contiguous(), stacked.grad[0].reshape(4, 3, 2)
        for optimizer in optimizers:
            optimizer.step()
    expected = [paper(start[i], [gradient((4, 6), 10 * i + step) for step in range(3)])[0] for i in range(3)]
    for actual, reference in [
        *zip(stacked.detach(), expected, strict=True),
        (turned.detach().T, expected[0]),
        (flat.detach().reshape(4, 6), expected[0]),
    ]:
        torch.testing.assert_close(actual.double(), reference, rtol=0, atol=1e-5)
    assert [
        list(o.state[p]["second_moment"].shape) for o, p in zip(optimizers, (stacked, turned, flat), strict=True)
    ] == [
        [3, 4, 1],
        [1, 4],
        [4, 1, 1],
    ]


def test_a_zero_gradient_moves_nothing():
    param = nn.Parameter(torch.ones(3, 2))
    param.grad = torch.zeros(3, 2)
    build([param]).step()
    assert torch.equal(param, torch.ones(3, 2))


@pytest.mark.parametrize("kind", [Muon, MuLoCo1])
def test_a_checkpoint_continues_to_the_bit(kind):
    options = {"sync_interval": 3} if kind is MuLoCo1 else {}
    param = nn.Parameter(torch.ones(5, 4))
    optimizer = build([param], kind=kind, **options)
    for step in range(8):
        if step == 4:
            saved = copy.deepcopy((param.detach(), optimizer.state_dict()))
        param.grad = gradient((5, 4), step)
        optimizer.step()
    other = nn.Parameter(saved[0])
    resumed = build([other], kind=kind, **options)
    resumed.load_state_dict(saved[1])
    for step in range(4, 8):
        other.grad = gradient((5, 4), step)
        resumed.step()
    assert torch.equal(param, other)


def test_muloco1_takes_the_papers_inner_steps():
    start = torch.randn(5, 4, generator=torch.Generator().manual_seed(9))
    param = nn.Parameter(start.clone())
    optimizer = build([param], kind=MuLoCo1, sync_interval=3, outer_lr=0.5, outer_momentum=0.4, weight_decay=0.0)
    for step in range(3):
        param.grad = gradient((5, 4), step)
        optimizer.step()
    inner, _ = paper(start, [gradient((5, 4), step) for step in range(3)])
    expected = start.double() - 0.5 * 1.4 * (start.double() - inner)
    torch.testing.assert_close(param.detach().double(), expected, rtol=0, atol=1e-5)


def test_the_config_reaches_the_rule():
    pytest.importorskip("torchtitan")  # ranks need not wait for it
    from muloco.training.optimizers import inner_optimizers

    chosen = Optimizer(weight_decay=0.0, mu=0.5, beta2=0.6, eps=1e-6, matrix=Role(rule="normuon"))
    chosen.complete({})
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"attention": nn.ModuleDict()})])})
    model["layers"][0]["attention"]["wo"] = nn.Linear(3, 3, bias=False)
    for name, module in (("tok_embeddings", nn.Embedding(4, 3)), ("lm_head", nn.Linear(3, 4, bias=False))):
        model[name] = module
    model["norm"] = nn.RMSNorm(3)
    groups = [
        group
        for optimizer in inner_optimizers(chosen, flavor("tiny").record.roles).build(model_parts=[model])
        for group in optimizer.param_groups
    ]
    (matrices,) = (group for group in groups if group["role"] == "matrix")
    assert (matrices["algorithm"], matrices["beta2"], matrices["momentum"], matrices["eps"]) == (
        "normuon",
        0.6,
        0.5,
        1e-6,
    )
    assert all("beta2" not in group for group in groups if group is not matrices)


PLACED = [  # shape, layout, placement of the parameter, and of its second moment
    ((7, 4), None, Shard(0), Replicate()),
    ((7, 4), None, Shard(1), Replicate()),
    ((1, 4), None, Shard(0), Replicate()),  # one rank has nothing
    ((7, 4), "transposed", Shard(0), Replicate()),
    ((3, 5, 4), "stacked", Shard(0), Shard(0)),  # each rank has whole matrices
    ((2, 5, 4), "stacked", Shard(1), Replicate()),
    ((5, 2, 3), "flatten", Shard(0), Replicate()),
    ((5, 3), None, Replicate(), Replicate()),
]


def check_ranks(rank, store):
    newton_schulz._fast_dtype = lambda device_type: torch.float32
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    start = torch.Generator().manual_seed(0)
    plain = [nn.Parameter(torch.randn(shape, generator=start)) for shape, *_ in PLACED]
    sharded = [
        nn.Parameter(distribute_tensor(param.detach().clone(), mesh, [placement], src_data_rank=None))
        for param, (_, _, placement, _) in zip(plain, PLACED, strict=True)
    ]
    copies = [nn.Parameter(param.detach().clone()) for param in plain]
    optimizers = []
    for params, options in ((plain, {}), (sharded, {}), (copies, {"process_group": dist.group.WORLD})):
        groups = [
            {"params": [param], "layout": layout, "algorithm": "normuon", "beta2": BETA2}
            for param, (_, layout, _, _) in zip(params, PLACED, strict=True)
        ]
        optimizers.append(Muon(groups, LR, **options))
    for step in range(3):
        for index, (one, other, third) in enumerate(zip(plain, sharded, copies, strict=True)):
            one.grad = third.grad = gradient(one.shape, 100 * step + index)
            other.grad = distribute_tensor(one.grad, mesh, other.placements, src_data_rank=None)
        for optimizer in optimizers:
            optimizer.step()
    for one, other, third, (_, _, _, placement) in zip(plain, sharded, copies, PLACED, strict=True):
        expected, second = one.detach(), optimizers[0].state[one]["second_moment"]
        torch.testing.assert_close(local(other.detach()), shard_like(expected, other), rtol=0, atol=1e-5)
        torch.testing.assert_close(third.detach(), expected, rtol=0, atol=1e-5)
        assert optimizers[1].state[other]["second_moment"].placements == (placement,)
        torch.testing.assert_close(gather(optimizers[1].state[other]["second_moment"]), second, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(optimizers[2].state[third]["second_moment"], second, rtol=1e-4, atol=1e-7)
    check_fsdp_checkpoint(mesh, Path(store.removeprefix("file://") + "-checkpoint"))
    dist.destroy_process_group()


def check_fsdp_checkpoint(mesh, folder):
    def fresh():
        torch.manual_seed(0)
        model = nn.Linear(4, 5, bias=False)
        fully_shard(model, mesh=mesh)
        return model, build([model.weight])

    def train(model, optimizer, steps):
        for step in steps:
            model.weight.grad = distribute_tensor(gradient((5, 4), step), mesh, [Shard(0)], src_data_rank=None)
            optimizer.step()

    model, optimizer = fresh()
    train(model, optimizer, range(3))
    dcp.save({"m": model.state_dict(), "o": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=folder)
    train(model, optimizer, range(3, 6))
    other, resumed = fresh()
    state = {"m": other.state_dict(), "o": get_optimizer_state_dict(other, resumed)}
    dcp.load(state, checkpoint_id=folder)
    other.load_state_dict(state["m"])
    set_optimizer_state_dict(other, resumed, state["o"])
    train(other, resumed, range(3, 6))
    assert torch.equal(local(model.weight), local(other.weight)), "not resumed to the bit"


def test_sharded_and_shared_matrices_are_stepped_as_whole_ones(spawn_ranks):
    spawn_ranks(check_ranks, 2)
