"""Symmetric products: the Triton kernel against float64 through Triton's interpreter, and which way is chosen when."""

import copy
import importlib
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from muloco.optim import Muon
from muloco.optim.symmetric import Choices, symmetric_product

symmetric = importlib.import_module("muloco.optim.symmetric")
newton_schulz = importlib.import_module("muloco.optim.newton_schulz")
whole_matrices = importlib.import_module("muloco.optim.whole_matrices")
HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(scope="module")
def interpreted() -> list[dict]:
    run = subprocess.run(
        [sys.executable, HERE / "interpreted_kernel.py"],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@needs_triton
def test_the_kernel_is_off_by_rounding_alone(interpreted):
    """Both orientations, squares, products of symmetric matrices that commute; odd shapes, batches, any strides."""
    errors = {tuple(map(str, one["case"])): one["error"] for one in interpreted if "symmetric" in one}
    assert len(errors) == 3 * 4 * 2 * 5 + 1 + 2 + 2
    # the interpreter cuts bfloat16 off instead of rounding to nearest
    over = {case: error for case, error in errors.items() if not error <= (2 if "bfloat16" in case else 1)}
    assert not over


@needs_triton
def test_the_kernel_is_symmetric_to_the_bit_and_writes_nothing_else(interpreted):
    cases = [one for one in interpreted if "symmetric" in one]
    assert all(one["symmetric"] and one["untouched"] for one in cases)


@needs_triton
def test_an_orthogonalization_takes_the_kernel(interpreted):
    errors = {tuple(map(str, one["case"])): one["error"] for one in interpreted if one["case"][0] == "orthogonalize"}
    assert len(errors) == 6
    assert all(0 < error < (2e-2 if "bfloat16" in case else 1e-5) for case, error in errors.items())
    assert all(one["equal"] for one in interpreted if one["case"] == ["float64"])


SHARED_MEMORY = {80: 163, 89: 99, 90: 227}
"""KiB that a block may have, by compute capability (CUDA C++ Programming Guide, technical specifications)."""


def compiled(capability: int, dtype: str, index: int):
    import triton
    from triton.backends.compiler import GPUTarget

    kernel = importlib.import_module("muloco.optim.symmetric_kernel")
    tile = kernel.tiles({"bf16": torch.bfloat16, "fp32": torch.float32}[dtype])[index]
    names = kernel._triangle.arg_names
    fixed = {"ROWS": tile.rows, "DEPTH": tile.depth, "PRECISION": "ieee"}
    fixed |= dict.fromkeys(("left_column", "right_row", "out_column"), 1)
    types = dict.fromkeys(names, "i32") | dict.fromkeys(("left", "right", "out"), f"*{dtype}")
    types |= {"alpha": "fp32", "diagonal": "fp32"} | dict.fromkeys(fixed, "constexpr")
    odd = {*fixed, "count", "alpha", "diagonal"}
    return triton.compile(
        triton.compiler.ASTSource(
            kernel._triangle,
            signature={name: types[name] for name in names},
            constexprs={(names.index(name),): value for name, value in fixed.items()},
            attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in odd},
        ),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True},
    )


@needs_triton
@pytest.mark.parametrize(
    ("capability", "dtype", "index"),
    [(80, "bf16", 0), (89, "bf16", 0), (90, "bf16", 0), (90, "bf16", 1), (90, "bf16", 2), (90, "fp32", 0)],
)
def test_the_kernel_compiles_for_gpus(monkeypatch, tmp_path, capability, dtype, index):
    """And fits there; 16 bits go to the tensor cores, and stores are of 16 bytes a thread."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = compiled(capability, dtype, index)
    assert found.metadata.shared <= SHARED_MEMORY[capability] * 2**10
    stores = [line for line in found.asm["ptx"].splitlines() if "st.global" in line]
    assert stores and all(".v4.b32" in line for line in stores)
    if dtype == "bf16":
        assert any(word in found.asm["ptx"] for word in ("wgmma.mma_async", "mma.sync"))


def gaussian(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("by", ["matmul", "auto"])
def test_by_matmul(dtype, by):
    x = gaussian(3, 7, 4, dtype=dtype)
    for left, right in ((x, x.mT), (x.mT, x)):
        n = left.shape[1]
        out = torch.full((3, n, n), torch.nan, dtype=dtype)
        assert symmetric_product(left, right, alpha=-0.5, diagonal=2.0, out=out, by=by) is out
        expected = -0.5 * torch.bmm(left.double(), right.double()) + 2 * torch.eye(n)
        torch.testing.assert_close(out.double(), expected, rtol=torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


class Clock:
    """Returns fixed seconds for each way; ways without one are refused."""

    def __init__(self, **seconds):
        self.seconds, self.timed, self.capturing = seconds, [], False

    def __call__(self, run):
        way = run()
        self.timed.append(way)
        return self.seconds[way]

    def choices(self):
        return Choices(self, lambda: not self.capturing, lambda: (LookupError,))


def same(way):
    return way


def test_each_case_is_timed_once_and_the_fastest_taken():
    clock = Clock(a=3.0, b=1.0, c=2.0)
    choices = clock.choices()
    assert [choices.fastest("small", "abc", same) for _ in range(3)] == ["b", "b", "b"]
    assert clock.timed == ["a", "b", "c"]
    clock.seconds = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert choices.fastest("large", "abc", same) == "a" and choices.fastest("small", "abc", same) == "b"


def test_a_way_that_the_device_refuses_is_left_out():
    assert Clock(a=2.0, c=1.0).choices().fastest("case", "abc", same) == "c"
    assert Clock(a=2.0).choices().fastest("case", "abc", same) == "a"
    with pytest.raises(KeyError):
        Clock(b=2.0).choices().fastest("the default", "abc", same)
    with pytest.raises(ZeroDivisionError):  # an error that is no refusal
        Clock(a=1.0, b=2.0).choices().fastest("case", "ab", lambda way: 1 / 0 if way == "b" else way)


def test_while_a_graph_is_captured_nothing_is_timed():
    clock = Clock(a=2.0, b=1.0)
    choices = clock.choices()
    clock.capturing = True
    assert choices.fastest("case", "ab", same) == "a" and clock.timed == []
    clock.capturing = False
    assert choices.fastest("case", "ab", same) == "b"
    clock.capturing = True
    assert choices.fastest("case", "ab", same) == "b", "what is known by then is used"


class Kernel:
    """In place of Triton's, on the CPU."""

    TritonError = LookupError

    def __init__(self):
        self.launched = []

    def tiles(self, dtype):
        return "large", "small"

    def obstacle(self, device):
        return None

    def launch(self, left, right, out, *, alpha, diagonal, tile, tensor_float_32):
        self.launched.append(tile)
        out.copy_(alpha * left @ right + diagonal * torch.eye(out.shape[-1], dtype=out.dtype))


@pytest.fixture
def kernel(monkeypatch):
    fake = Kernel()
    monkeypatch.setattr(symmetric, "_kernel", lambda: fake)
    monkeypatch.setattr(symmetric, "_obstacle", lambda device: None)
    return fake


def product(by, x=None):
    x = gaussian(2, 6, 5, dtype=torch.float32) if x is None else x
    out = symmetric_product(x, x.mT, alpha=0.5, diagonal=1.0, out=x.new_empty(*x.shape[:2], x.shape[1]), by=by)
    torch.testing.assert_close(out, 0.5 * x @ x.mT + torch.eye(x.shape[1], dtype=x.dtype))
    return out


@pytest.mark.parametrize("fastest", [None, "large", "small"])
def test_auto_computes_by_what_is_fastest(monkeypatch, kernel, fastest):
    monkeypatch.setattr(symmetric, "_may_choose", lambda left: True)
    times = {None: 3.0, "large": 3.0, "small": 3.0, fastest: 1.0}
    order = iter((None, "large", "small"))

    def seconds(run):
        run()
        return times[next(order)]

    monkeypatch.setattr(symmetric, "_choices", Choices(seconds, lambda: True, lambda: ()))
    product("auto")
    assert kernel.launched == ["large", "small", *([fastest] if fastest else [])]
    product("auto")
    assert kernel.launched[3:] == ([fastest] if fastest else [])
    product("matmul")
    product("triton", gaussian(2, 4, 3))  # float64
    assert kernel.launched[4:] == []


def test_triton_is_always_the_same_tile(kernel):
    for _ in range(2):
        product("triton")
    assert kernel.launched == ["large", "large"]


def test_auto_has_a_choice_on_gpus_only_and_none_where_runs_are_deterministic(monkeypatch, kernel):
    matrix = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.bfloat16)
    assert symmetric._may_choose(matrix)
    assert not symmetric._may_choose(SimpleNamespace(device=torch.device("cpu"), dtype=torch.bfloat16))
    assert not symmetric._may_choose(SimpleNamespace(device=matrix.device, dtype=torch.float64))
    monkeypatch.setattr(symmetric, "_obstacle", lambda device: "too old")
    assert not symmetric._may_choose(matrix)
    monkeypatch.undo()
    monkeypatch.setattr(symmetric, "_obstacle", lambda device: None)
    torch.use_deterministic_algorithms(True)
    try:
        assert not symmetric._may_choose(matrix)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_fake_tensor_is_not_timed():
    """Its device may not be there."""
    with FakeTensorMode():
        x = torch.empty(2, 6, 5, device="cuda", dtype=torch.bfloat16)
        out = symmetric_product(x, x.mT, diagonal=1.0, out=x.new_empty(2, 6, 6), by="auto")
    assert out.shape == (2, 6, 6) and out.device.type == "cuda"


@pytest.fixture
def no_memory_of_obstacles():
    symmetric._obstacle.cache_clear()
    yield
    symmetric._obstacle.cache_clear()


def test_triton_is_refused_where_it_cannot_run(monkeypatch, no_memory_of_obstacles):
    if importlib.util.find_spec("triton") is not None:
        with pytest.raises(ValueError, match="'triton' cannot be used: it needs a CUDA device, not cpu; use 'auto' or"):
            product("triton")
    symmetric._obstacle.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'triton' cannot be used: the package triton is not installed"):
        product("triton")


def stepped(monkeypatch, optimizer):
    """By what an optimizer of one matrix has its products computed."""
    asked, original = [], newton_schulz.orthogonal_direction

    def recorded(*args, symmetric_products, **options):
        asked.append(symmetric_products)
        return original(*args, symmetric_products="matmul", **options)

    with monkeypatch.context() as patch:
        patch.setattr(newton_schulz, "orthogonal_direction", recorded)
        param = optimizer.param_groups[0]["params"][0]
        param.grad = torch.ones_like(param)
        optimizer.step()
    (by,) = asked
    return by


def test_an_optimizer_does_as_it_was_told(monkeypatch):
    for by in ("auto", "triton", "matmul"):
        optimizer = Muon([torch.ones(3, 2)], symmetric_products=by)
        assert stepped(monkeypatch, optimizer) == by
        assert stepped(monkeypatch, copy.deepcopy(optimizer)) == by
        assert stepped(monkeypatch, pickle.loads(pickle.dumps(optimizer))) == by
        assert "symmetric_products" not in optimizer.state_dict()["param_groups"][0], "a resume may change it"
    assert stepped(monkeypatch, Muon([torch.ones(3, 2)])) == "auto"
    with pytest.raises(ValueError, match="unknown symmetric_products 'cublas': .*'auto', 'triton', 'matmul'"):
        Muon([torch.ones(3, 2)], symmetric_products="cublas")


@pytest.mark.parametrize(
    ("chosen", "axes", "ranks", "by"),
    [
        ("auto", [], None, "auto"),
        ("auto", [], 1, "auto"),
        ("auto", [], 2, "matmul"),  # as in DDP without a process group
        ("auto", [2, 4], 8, "auto"),  # each matrix has one owner among all
        ("auto", [4], 8, "matmul"),  # two owners
        ("triton", [], 2, "triton"),
        ("matmul", [], 1, "matmul"),
    ],
)
def test_ranks_that_compute_the_same_matrix_do_not_choose_for_themselves(monkeypatch, chosen, axes, ranks, by):
    monkeypatch.setattr(whole_matrices.dist, "is_initialized", lambda: ranks is not None)
    monkeypatch.setattr(whole_matrices.dist, "get_world_size", lambda: ranks)
    assert whole_matrices._safe(chosen, SimpleNamespace(axes=[SimpleNamespace(size=size) for size in axes])) == by


def test_nothing_but_torch_is_needed():
    code = "import sys, torch, muloco.pytorch, muloco.optim.symmetric; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
