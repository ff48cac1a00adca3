"""The Triton kernels: what they compute, through Triton's interpreter, and that they compile for a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from muloco.optim import kernels

KERNELS = ("advance_kernel", "descend_kernel", "norm_kernel", "scale_kernel")


def test_they_compute_what_pytorchs_operators_do_in_as_few_bytes_as_they_say():
    """Runs in a separate process, since Triton chooses its interpreter when it is imported."""
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(here / "interpreted.py")]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=here.parents[1])
    assert done.returncode == 0, done.stdout


class Hopper:
    """Stands for the driver of a GPU."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self):
        return torch.device("cpu")


@pytest.fixture
def compiled(monkeypatch):
    """Records the name and the PTX of each kernel that is launched. Kernels are compiled, and not run."""
    found = []

    class Compiling:
        def __init__(self, kernel):
            self.kernel = triton.jit(kernel.fn)  # another one, as a kernel keeps what it has been compiled for

        def __getitem__(self, grid):
            def launch(*arguments, **options):
                result = self.kernel.warmup(*arguments, grid=grid, **options)
                assert result.asm["cubin"]
                found.append((self.kernel.__name__, result.asm["ptx"].splitlines()))

            return launch

    for name in KERNELS:
        monkeypatch.setattr(kernels, name, Compiling(getattr(kernels, name)))
    monkeypatch.setattr(driver, "_active", Hopper())
    return found


def tensors(count, dtype=torch.float32):
    return list(torch.zeros(count, 64, 96, dtype=dtype))


CALLS = {
    "momentum": lambda: kernels.advance(tensors(3), tensors(3), torch.zeros(3, 64, 96).bfloat16(), 0.9, False),
    "look ahead": lambda: kernels.advance(tensors(3), tensors(3), torch.zeros(3, 64, 96).bfloat16(), 0.9, True),
    "in bfloat16": lambda: kernels.advance(tensors(1, torch.bfloat16), tensors(1, torch.bfloat16), None, 0.9, False),
    "update": lambda: kernels.descend(tensors(3), tensors(3, torch.bfloat16), None, 0.1, False),
    "no decay": lambda: kernels.descend(tensors(64), tensors(64, torch.bfloat16), None, 0.0, False),
    "cautious": lambda: kernels.descend(tensors(3), tensors(3, torch.bfloat16), torch.tensor(0.1), 0.1, True),
    "norm": lambda: kernels.normalize_(torch.zeros(3, 640, 960).bfloat16()),
    "norm of small ones": lambda: kernels.normalize_(torch.zeros(3, 64, 96).bfloat16()),
    "norm of large ones": lambda: kernels.normalize_(torch.empty(1, 4096, 4096).bfloat16()),
}


@pytest.mark.parametrize("what", CALLS)
def test_they_compile_for_hopper(compiled, what):
    CALLS[what]()
    assert len(compiled) == (2 if "norm" in what else 1)
    for name, lines in compiled:
        assert (name == "advance_kernel") == any("fma.rn.f32" in line for line in lines), "contracted elsewhere"
        assert any("ld.global.v4" in line or "ld.global.v2" in line for line in lines), "loads one by one"
        assert not any(".local." in line for line in lines), "spills registers"
