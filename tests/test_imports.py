"""Imports point down only, and what promises to need torch alone does."""

import subprocess
import sys

import pytest

from .test_torchtitan_gate import PACKAGE, modules_imported_by

LEVELS = [
    {"errors", "sharding", "failpoints", "cores", "console", "files", "suggest", "_torchtitan"},
    {"settings.annotations"},
    {"settings.values"},
    {"optim", "outer.codecs", "outer.loop.fragments"},  # whose settings are fields of the config
    {"model"},
    {"settings"},
    {"outer.protocol"},
    {"outer.system_clock"},
    {"outer.in_process", "outer.wire"},
    {"outer.loop"},
    {"outer"},
    {"data", "pytorch"},
    {"resolve"},
    {"runs", "describe"},
    {"training"},
    {"launch", "analysis.records", "evals", "export"},
    {"analysis"},
    {"analysis.claims", "analysis.pseudogradients"},
    {"analysis.report"},
    {"sweeps"},
    {"recipes"},
    {"reproduce", "gpu_check"},
    {"commands"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def room_of(module: str) -> str:
    """The room of `muloco.NAME...`: the longest name in `LEVELS` that the module is, or is below."""
    parts = module.split(".")[1:]
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in LEVEL), names[-1])


def test_imports_point_down() -> None:
    for file in PACKAGE.rglob("*.py"):
        room = room_of(".".join(("muloco", *file.relative_to(PACKAGE).with_suffix("").parts)))
        if room in ("__init__", "__main__"):
            continue
        for module in modules_imported_by(file):
            if module.startswith("muloco.") and room_of(module) != room:
                assert LEVEL[room_of(module)] < LEVEL[room], f"{file}: {room} imports {module}"


WAITING = {"time", "threading", "queue", "concurrent", "multiprocessing", "asyncio", "socket", "http", "torchft"}


@pytest.mark.parametrize("room", ["protocol", "loop"])
def test_the_protocol_waits_only_by_its_clock_and_its_wire(room: str) -> None:
    for file in (PACKAGE / "outer" / room).rglob("*.py"):
        modules = modules_imported_by(file)
        assert not WAITING & {module.partition(".")[0] for module in modules}, file
        assert "torch.distributed" not in modules, file


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("muloco.optim.rules", ["torch", "numpy"]),
        ("muloco.optim", ["torchtitan", "torchft", "datasets", "cryptography"]),
        ("muloco.outer", ["torchtitan", "torchft", "datasets", "cryptography"]),
        ("muloco.pytorch", ["torchtitan", "torchft", "datasets", "cryptography", "muloco.outer", "muloco.training"]),
        ("muloco.resolve", ["torch", "torchtitan", "torchft", "tyro", "datasets", "cryptography"]),
        ("muloco.outer.codecs", ["torch", "numpy", "tyro"]),
        ("muloco.training.trained", ["torch", "torchtitan"]),
        ("muloco.training.validation_cost", ["torch", "numpy"]),
        ("muloco.evals.names", ["torch", "lm_eval"]),
        ("muloco.runs.folder", ["torch", "numpy"]),
        ("muloco.settings.load", ["torch", "numpy", "tyro", "rich"]),
        ("muloco.launch.supervisor", ["torch"]),
        ("muloco.analysis.plots", ["torch"]),
        ("muloco.analysis.faults", ["torch"]),
        ("muloco.gpu_check.page", ["torch", "torchtitan"]),
        ("muloco.cli", ["torch", "torchtitan", "torchft", "matplotlib", "scipy", "lm_eval", "tyro", "datasets"]),
        ("muloco.gpu_check.runner", ["torch", "torchtitan"]),
        ("muloco.analysis.report.command", ["torch", "torchtitan", "matplotlib"]),
    ],
)
def test_what_a_module_does_not_need(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; found = set({absent}) & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
