"""Tests that need a GPU: the kernels compared with PyTorch's operators, and a step in a CUDA graph."""

import pytest
import torch

from muloco.optim import Muon, passes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPES = [(64, 64)] * 3 + [(300, 70), (70, 300)]


def parameters():
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator).cuda()) for shape in SHAPES]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).cuda()
    return params


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("rate", [None, 0.03])
def test_kernels_give_the_bits_of_pytorchs_operators(nesterov, cautious, rate):
    generator = torch.Generator().manual_seed(0)
    ours = list(torch.randn(4, 3, 300, 70, generator=generator).cuda())
    theirs = [one.clone() for one in ours]
    lr = None if rate is None else torch.tensor(rate, device="cuda")
    steps = ((passes._advance_cuda, passes._descend_cuda), (passes._advance_in_passes, passes._descend_in_passes))
    for (advance, descend), (gradients, momenta, parts, params) in zip(steps, (ours, theirs), strict=True):
        advance(list(gradients), list(momenta), parts, 0.9, nesterov)
        descend(list(params), list(gradients.bfloat16()), lr, 0.1, cautious)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_normalized_matrix_has_norm_one(dtype):
    matrices = torch.randn(3, 300, 70, generator=torch.Generator().manual_seed(0)).cuda().to(dtype)
    matrices[1] *= 2.0**-8
    exact = matrices.double()
    passes._normalize_cuda(matrices)
    expected = exact / exact.norm(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(matrices.double(), expected, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny)


def test_a_step_is_captured_into_a_cuda_graph():
    eager, captured = parameters(), parameters()
    optimizers = [Muon(params, torch.tensor(0.02, device="cuda"), weight_decay=0.1) for params in (eager, captured)]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for optimizer in optimizers:
            optimizer.step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizers[1].step()
    for lr in (0.02, 0.01):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"].fill_(lr)
        optimizers[0].step()
        graph.replay()
    for one, other in zip(eager, captured, strict=True):
        assert torch.equal(one, other)
