"""A step of Muon where the host does not read values: what it moves and launches beside its products, and that it reads
no value indeed.

The operators `muloco.*` are counted as test_kernels.py finds their kernels to be: they read and write each tensor once,
but what is normalized is read twice; one launch for each 64 matrices, and two for the normalization.
"""

import importlib
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from muloco.optim import PRESETS, Muon, passes

PRODUCTS = {"bmm", "baddbmm"}
FREE = {"empty", "new_empty", "empty_like", "detach", "_unsafe_view", "lift_fresh", "_wrap_tensor_autograd"}


class Count(TorchDispatchMode):
    """Returns bytes moved and kernels launched; those of the matrix products are counted separately."""

    def __init__(self):
        super().__init__()
        self.bytes, self.launches, self.products, self.names = 0, 0, 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in FREE or func.namespace in ("profiler", "prim"):
            return result
        self.names.append(name)
        if name in PRODUCTS:
            self.products += 1
            return result
        self.launches += self._launches(func, args)
        self.bytes += self._bytes(func, args, kwargs or {}, result)
        return result

    @staticmethod
    def _launches(func, args):
        name = func.overloadpacket.__name__
        if func.namespace == "muloco":
            return 2 if name == "normalize_" else -(-len(args[0]) // 64)
        return len(args[0]) if name.startswith("_foreach") else 1  # at most

    @staticmethod
    def _bytes(func, args, kwargs, result):
        read, written = {}, {id(one): one for one in tree_leaves(result) if isinstance(one, torch.Tensor)}
        for place, argument in enumerate(func._schema.arguments):
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            tensors = {id(one): one for one in tree_leaves(value) if isinstance(one, torch.Tensor)}
            changed = argument.alias_info is not None and argument.alias_info.is_write
            if changed:
                written |= tensors
            only_written = (
                argument.is_out
                or argument.name == "parts"
                or func.overloadpacket.__name__
                in (
                    "copy_",
                    "_foreach_copy_",
                )
            )
            if not (changed and only_written):
                read |= tensors
        total = sum(one.nbytes for one in [*read.values(), *written.values()])
        return total + (args[0].nbytes if func.overloadpacket.__name__ == "normalize_" else 0)


@pytest.fixture
def unseen(monkeypatch):
    """As on a GPU, with products in bfloat16 of float32 parameters."""
    monkeypatch.setattr("muloco.optim.passes.SEEN", frozenset())
    module = importlib.import_module("muloco.optim.newton_schulz")
    monkeypatch.setattr(module, "_fast_dtype", lambda device_type: torch.bfloat16)


def with_gradients(shapes, device="cpu"):
    params = [torch.nn.Parameter(torch.empty(shape, device=device)) for shape in shapes]
    for param in params:
        param.grad = torch.empty_like(param)
        if device == "cpu":
            param.data.normal_()
            param.grad.normal_()
    return params


def count(shapes, **options):
    params = with_gradients(shapes)
    optimizer = Muon(params, 0.1, **options)
    optimizer.step()
    with Count() as counted:
        optimizer.step()
    return counted


@pytest.mark.parametrize("shape", [(256, 256), (256, 704), (704, 256)], ids=str)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("cautious", [False, True])
def test_bytes_beside_the_products(unseen, shape, nesterov, cautious):
    counted = count([shape] * 4, weight_decay=0.1, nesterov=nesterov, cautious_weight_decay=cautious)
    # momentum: gradient 4, state 4 + 4, rounded 2; norm 2 + 2 + 2; update: parameter 4 + 4, direction 2
    elements = 4 * shape[0] * shape[1]
    diagonals = 5 * 2 * 2 * 2 * 4 * min(shape)
    assert 30 * elements <= counted.bytes <= 30 * elements + diagonals


def test_launches_do_not_grow_with_the_number_of_matrices(unseen):
    four, sixteen = (count([(64, 64)] * number, weight_decay=0.1) for number in (4, 16))
    assert four.names == sixteen.names
    assert (four.launches, four.products) == (sixteen.launches, sixteen.products) == (1 + 2 + 10 + 1, 15)


def work(shape=(6, 4), dtype=torch.float32, strided=False):
    """Gradients, momenta, parts, parameters, directions and matrices, with numbers that are always the same."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(2, *shape, generator=generator).to(dtype) for _ in range(6)]
    if strided:
        found = [one.mT.contiguous().mT for one in found]
    return found


def steps(found, advance, descend, normalize):
    gradients, momenta, parts, params, directions, x = found
    advance(list(gradients), list(momenta), parts, 0.9, True)
    descend(list(params), list(directions), None, 0.1, False)
    normalize(x)


IN_PASSES = (passes._advance_in_passes, passes._descend_in_passes, passes._normalize_in_passes)
ON_CUDA = (passes._advance_cuda, passes._descend_cuda, passes._normalize_cuda)


@pytest.mark.parametrize("why", ["no Triton", "float64", "strided"])
def test_pytorchs_operators_do_what_the_kernels_do_not(monkeypatch, why):
    options = {"dtype": torch.float64 if why == "float64" else torch.float32, "strided": why == "strided"}
    if why == "no Triton":
        monkeypatch.setattr(passes.importlib.util, "find_spec", lambda name: None)
        passes._kernels.cache_clear()
    ours, expected = work(**options), work(**options)
    steps(ours, *ON_CUDA)
    passes._kernels.cache_clear()
    steps(expected, *IN_PASSES)
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


def test_kernels_get_contiguous_tensors(monkeypatch):
    """Directions and gradients may lie otherwise, as after an exchange."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    called = []

    def kernel(does):
        def call(*arguments):
            called.append(does)
            assert all(one.is_contiguous() for one in tree_leaves(arguments) if isinstance(one, torch.Tensor))
            does(*arguments)

        return call

    names = ("advance", "descend", "normalize_")
    kernels = SimpleNamespace(**{name: kernel(does) for name, does in zip(names, IN_PASSES, strict=True)})
    monkeypatch.setattr(passes, "_kernels", lambda: kernels)
    ours, expected = work(), work()
    for place in (0, 4):
        ours[place] = ours[place].mT.contiguous().mT
    steps(ours, *ON_CUDA)
    steps(expected, *IN_PASSES)
    assert called == list(IN_PASSES)
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


@contextmanager
def ranks(rank, size):
    """A process group whose other ranks do not exist and send nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def fake_step(params, group, lr="float", **options):
    optimizer = Muon([{"params": params, **group}], 0.1, weight_decay=0.1, **options)
    if lr == "tensor":
        for one in optimizer.param_groups:
            one["lr"] = torch.empty((), device="cuda")
    optimizer.step()  # makes the state
    with Count() as counted:
        optimizer.step()
    return counted


@pytest.mark.parametrize("lr", ["float", "tensor"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_on_a_gpu_reads_no_value(unseen, preset, nesterov, lr):
    """Fake tensors have no values: whatever depends on one fails. So the step can be captured into a CUDA graph."""
    with FakeTensorMode():
        params = with_gradients([(64, 64), (64, 64), (48, 64), (64, 48)], "cuda")
        group = {"orthogonalization": preset, "nesterov": nesterov, "cautious_weight_decay": nesterov}
        counted = fake_step(params, group, lr)
        assert counted.names.count("advance") == counted.names.count("normalize_") == 3
        with pytest.raises(DataDependentOutputException), torch.no_grad():
            params[0].sum().item()


@pytest.mark.parametrize("layout", ["copies", "sharded"])
@pytest.mark.parametrize("rank", [0, 2])
def test_ranks_that_share_the_work_on_gpus_read_no_value(unseen, rank, layout):
    with ranks(rank, 3):
        mesh = init_device_mesh("cuda", (3,))
        with FakeTensorMode():
            if layout == "copies":
                counted = fake_step(with_gradients([(63, 60)] * 7, "cuda"), {}, process_group=dist.group.WORLD)
            else:
                parts = [
                    DTensor.from_local(one.grad, mesh, [Shard(0)]) for one in with_gradients([(21, 60)] * 7, "cuda")
                ]
                params = [torch.nn.Parameter(part) for part in parts]
                for param in params:
                    param.grad = torch.empty_like(param)
                counted = fake_step(params, {})
        assert counted.names.count("alltoall_base_") == (1 if layout == "copies" else 2)


def test_adamw_is_fused_on_a_gpu(unseen):
    with FakeTensorMode():
        params = with_gradients([(64,), (64, 8)], "cuda")
        counted = fake_step(params, {"algorithm": "adamw"})
    assert [name for name in counted.names if name != "_foreach_add_"] == ["_fused_adamw_"]
