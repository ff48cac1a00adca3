"""What tests of every folder use."""

import gc
import os
import sys
from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from pathlib import Path

# Several tests run at once, and their processes too. The threads of each would only wait for those of the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import multiprocessing


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes run tests, one of them runs all tests of a file that share a fixture."""
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
        if any(fixture[-1].scope == "module" and fixture[-1].argname in item.fixturenames for fixture in definitions):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_finish() -> None:
    """Leaves what has been imported and collected out of every later search for garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture
def spawn_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`spawn_ranks(check, world, *args)` calls `check(rank, store, *args)`, a function of a test file, in `world` real
    processes of one thread each; `store` is an init method for gloo. The first one that fails fails the test.

    The processes are forks of a server that has imported the packages, which takes longer than most checks."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # spawned processes import the test file by name
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def spawn(check: Callable[..., None], world: int, *args: object) -> None:
        store, environment = f"file://{tmp_path}/store", dict(os.environ)
        multiprocessing.start_processes(
            _rank, (environment, check, store, *args), nprocs=world, start_method="forkserver"
        )

    set_forkserver_preload(["muloco._torchtitan"])
    return spawn


def _rank(rank: int, environment: dict[str, str], check: Callable[..., None], *args: object) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    check(rank, *args)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a thread of gloo may still hold a tensor; to let go of it while Python ends would abort the process
