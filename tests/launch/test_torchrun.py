"""Seconds for which torchrun waits for ranks that it has asked to stop."""

import signal
from argparse import ArgumentParser
from typing import Any

import pytest
from torch.distributed import run
from torch.distributed.elastic.multiprocessing import api

from muloco.launch import torchrun
from muloco.launch.torchrun import patient_torchrun


def older_parser() -> ArgumentParser:
    """As in torch 2.11."""
    parser = ArgumentParser()
    parser.add_argument("--nproc-per-node")
    return parser


def newer_parser() -> ArgumentParser:
    parser = older_parser()
    parser.add_argument("--shutdown-timeout", "--shutdown_timeout", type=int)
    return parser


@pytest.mark.parametrize(
    ("parser", "words"),
    [
        (newer_parser, ["-m", "torch.distributed.run", "--shutdown-timeout=90"]),
        (older_parser, ["-m", "muloco.launch.torchrun", "90"]),
    ],
)
def test_torchruns_own_option_is_used_where_it_has_one(
    monkeypatch: pytest.MonkeyPatch, parser: Any, words: list[str]
) -> None:
    monkeypatch.setattr(run, "get_args_parser", parser)
    assert patient_torchrun(90) == words


def test_without_the_option_it_waits_as_long_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Context(api.PContext):
        def __init__(self) -> None:
            self._tail_logs, self.filtered_stdout, self.filtered_stderr = [], None, None

        def _close(self, death_sig: signal.Signals, timeout: int = 30) -> None:
            asked.append((death_sig, timeout))

        def _start(self) -> None: ...

        def _poll(self) -> None: ...

        def pids(self) -> dict[int, int]:
            return {}

    monkeypatch.setattr(api.PContext, "close", api.PContext.close)  # puts it back
    monkeypatch.setattr(run, "main", asked.append)
    torchrun.main(["90", "--nproc-per-node=2", "-m", "muloco"])
    Context().close(signal.SIGUSR1)  # as torchrun's agent does
    assert asked == [["--nproc-per-node=2", "-m", "muloco"], (signal.SIGUSR1, 90)]
