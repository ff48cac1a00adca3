"""torchrun as the supervisor starts it."""

import os
import signal
from argparse import ArgumentParser
from typing import Any

import pytest
from torch.distributed import run
from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters

from muloco.launch import torchrun
from muloco.launch.torchrun import LoopbackRendezvous

from ..listening import listening


def older_parser() -> ArgumentParser:
    """As in torch 2.11."""
    parser = ArgumentParser()
    parser.add_argument("--nproc-per-node")
    return parser


def newer_parser() -> ArgumentParser:
    parser = older_parser()
    parser.add_argument("--shutdown-timeout", "--shutdown_timeout", type=int)
    return parser


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records the calls of torchrun."""
    asked: list[Any] = []
    monkeypatch.setattr(run, "main", asked.append)
    monkeypatch.setattr(api.PContext, "close", api.PContext.close)  # puts it back
    return asked


def test_torchruns_own_option_is_used_where_it_has_one(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    monkeypatch.setattr(run, "get_args_parser", newer_parser)
    torchrun.main(["90", "--nproc-per-node=2", "-m", "muloco"])
    assert asked == [["--shutdown-timeout=90", "--nproc-per-node=2", "-m", "muloco"]]


@pytest.mark.parametrize(("third", "status"), [(1, 1), (3, 3)])
def test_failed_ranks_end_it_with_their_status_and_killed_ones_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], third: int, status: int
) -> None:
    def fail(options: list[str]) -> None:
        ends = {0: -signal.SIGTERM, 1: -signal.SIGKILL, 2: third}
        raise ChildFailedError("worker", {rank: ProcessFailure(rank, 7, end, "") for rank, end in ends.items()})

    monkeypatch.setattr(run, "main", fail)
    monkeypatch.setattr(api.PContext, "close", api.PContext.close)  # puts it back
    with pytest.raises(SystemExit) as end:
        torchrun.main(["90"])
    assert end.value.code == status
    said = capsys.readouterr().err
    assert said.endswith("muloco: rank 1 ends with status 1: killed by SIGKILL\n") and said.count("ends with") == 1


def test_the_ranks_of_one_machine_meet_on_loopback() -> None:
    parameters = RendezvousParameters("loopback", "", "a run", 1, 1)
    meeting = LoopbackRendezvous(parameters).next_rendezvous()
    assert (meeting.rank, meeting.world_size) == (0, 1)
    assert meeting.bootstrap_store_info is not None
    port = meeting.bootstrap_store_info.master_port
    assert [address for address, other in listening([os.getpid()]) if other == port] == ["127.0.0.1"]


def test_without_the_option_it_waits_as_long_all_the_same(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    monkeypatch.setattr(run, "get_args_parser", older_parser)

    class Context(api.PContext):
        def __init__(self) -> None:
            self._tail_logs, self.filtered_stdout, self.filtered_stderr = [], None, None

        def _close(self, death_sig: signal.Signals, timeout: int = 30) -> None:
            asked.append((death_sig, timeout))

        def _start(self) -> None: ...

        def _poll(self) -> None: ...

        def pids(self) -> dict[int, int]:
            return {}

    torchrun.main(["90", "--nproc-per-node=2", "-m", "muloco"])
    Context().close(signal.SIGUSR1)  # as torchrun's agent does
    assert asked == [["--nproc-per-node=2", "-m", "muloco"], (signal.SIGUSR1, 90)]
