"""The Triton kernels: what they compute, through Triton's interpreter, and that they compile for a GPU that is not here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from muloco.optim import kernels


def test_they_compute_what_pytorchs_operators_do_in_as_few_bytes_as_they_say():
    """In a process of its own, as Triton asks for its interpreter when it is imported."""
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(here / "interpreted.py")]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=here.parents[1])
    assert done.returncode == 0, done.stdout


FEW = 4
POINTERS = {"fp32": ("*fp32",) * FEW, "bf16": ("*bf16",) * FEW}
SIGNATURES = {
    "advance": (
        kernels.advance_kernel,
        {
            "gradients": POINTERS["fp32"],
            "momenta": POINTERS["fp32"],
            "parts": "*bf16",
            "size": "i32",
            "momentum": "fp32",
            "weight": "fp32",
            "other_weight": "fp32",
        },
        {"COUNT": FEW, "NESTEROV": True, "BLOCK": kernels.BLOCK},
    ),
    "advance alone, in bfloat16": (
        kernels.advance_kernel,
        {
            "gradients": POINTERS["bf16"],
            "momenta": POINTERS["bf16"],
            "size": "i32",
            "momentum": "fp32",
            "weight": "fp32",
            "other_weight": "fp32",
        },
        {"parts": None, "COUNT": FEW, "NESTEROV": False, "BLOCK": kernels.BLOCK},
    ),
    "descend": (
        kernels.descend_kernel,
        {"params": POINTERS["fp32"], "directions": POINTERS["bf16"], "size": "i32", "decay": "fp32", "kept": "fp32"},
        {"rate": None, "COUNT": FEW, "CAUTIOUS": False, "BLOCK": kernels.BLOCK},
    ),
    "descend cautiously by a rate on the device": (
        kernels.descend_kernel,
        {
            "params": POINTERS["fp32"],
            "directions": POINTERS["bf16"],
            "rate": "*fp32",
            "size": "i32",
            "decay": "fp32",
            "kept": "fp32",
        },
        {"COUNT": FEW, "CAUTIOUS": True, "BLOCK": kernels.BLOCK},
    ),
    "norm": (
        kernels.norm_kernel,
        {"x": "*bf16", "largest_at": "*fp32", "sums_at": "*fp32", "size": "i32"},
        {"PIECE": kernels.PIECE},
    ),
    "scale": (
        kernels.scale_kernel,
        {"x": "*bf16", "largest_at": "*fp32", "sums_at": "*fp32", "size": "i32", "pieces": "i32"},
        {"PIECE": kernels.PIECE, "PIECES": kernels.PIECES, "ROOM": 512},
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_they_compile_for_hopper(name):
    kernel, signature, constants = SIGNATURES[name]
    wide = [["tt.divisibility", 16]]  # as of tensors that the allocator made
    attributes = {}
    for place, argument in enumerate(kernel.arg_names):
        kind = signature.get(argument)
        if isinstance(kind, tuple):
            attributes |= {(place, one): wide for one in range(len(kind))}
        elif kind is not None and kind.startswith("*") or argument == "size":
            attributes[(place,)] = wide
    source = ASTSource(
        kernel,
        {argument: signature.get(argument, "constexpr") for argument in kernel.arg_names},
        {(kernel.arg_names.index(argument),): value for argument, value in constants.items()},
        attributes,
    )
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8, **kernels.EXACT})
    assert compiled.asm["cubin"]
    lines = compiled.asm["ptx"].splitlines()
    assert ("advance" in name) == any("fma.rn.f32" in line for line in lines), "contracted where PyTorch does not"
    assert any("ld.global.v4" in line or "ld.global.v2" in line for line in lines), "not a load of several elements"
    assert not any(".local." in line for line in lines), "spills registers"
