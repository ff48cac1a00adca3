"""What tests of every folder use."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import multiprocessing


@pytest.fixture
def spawn_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`spawn_ranks(check, world, *args)` calls `check(rank, store, *args)`, a function of a test file, in `world` real
    processes of one thread each; `store` is an init method for gloo. The first one that fails fails the test."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # spawned processes import the test file by name
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def spawn(check: Callable[..., None], world: int, *args: object) -> None:
        multiprocessing.spawn(_rank, (check, f"file://{tmp_path}/store", *args), nprocs=world)

    return spawn


def _rank(rank: int, check: Callable[..., None], *args: object) -> None:
    torch.set_num_threads(1)
    check(rank, *args)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a thread of gloo may still hold a tensor; to let go of it while Python ends would abort the process
