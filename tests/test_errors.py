"""The exit status that tells the supervisor whether to start a worker again."""

import errno
import socket

import pytest
import torch

from muloco.data.errors import DamagedCacheError
from muloco.errors import AttemptFailed, RunFailed, UserError, exit_status
from muloco.launch.torchrun import status_of
from muloco.outer.protocol.company import ForeignRun
from muloco.outer.protocol.transaction import AnchorMismatch, NonFinitePseudogradient, StateLost
from muloco.outer.protocol.transport import TransportError, Unverified
from muloco.runs.checkpoint_folder import NoWholeCheckpoint
from muloco.training.checkpoint import CheckpointRemoved
from muloco.training.checkpoint_writer import CheckpointNotWritten
from muloco.training.finite import NonFiniteGradient


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TransportError("sync after step 8: nobody there"), 1),
        (Unverified("worker 1 sent other bytes", [1]), 1),
        (RuntimeError("[pair.cc:553] Connection closed by peer"), 1),
        (torch.OutOfMemoryError("CUDA out of memory"), 1),
        (torch.distributed.DistNetworkError("The client socket has timed out"), 1),
        (CheckpointRemoved("checkpoint step-4 was removed while it was loaded"), 1),
        (ConnectionResetError(), 1),
        (TimeoutError(), 1),
        (socket.gaierror(), 1),
        (OSError(errno.EIO, "Input/output error"), 1),
        (UserError("model.flavor"), 2),
        (DamagedCacheError, 2),
        (NonFiniteGradient, 3),
        (NonFinitePseudogradient, 3),
        (AnchorMismatch, 3),
        (ForeignRun, 3),
        (NoWholeCheckpoint, 3),
        (CheckpointNotWritten, 3),
        (ModuleNotFoundError("No module named 'torch'"), 3),
        (TypeError("'NoneType' object is not callable"), 3),
        (KeyError("loss"), 3),
        (FileNotFoundError(), 3),
        (NotImplementedError(), 3),
        (StateLost, 4),
    ],
)
def test_the_status_of_errors(error: BaseException | type, status: int) -> None:
    assert (error.exit_status if isinstance(error, type) else exit_status(error)) == status


@pytest.mark.parametrize(
    ("ranks", "status"),
    [
        ([1, -15], 1),
        ([-9, 1], 1),
        ([-15, RunFailed.exit_status], 3),
        ([1, 3, 3, 1], 3),
        ([1, UserError.exit_status], 2),
        ([AttemptFailed.exit_status, -15, 1], 4),
        ([137, 1], 1),
    ],
)
def test_the_status_of_a_worker_of_several_ranks(ranks: list[int], status: int) -> None:
    assert status_of(ranks) == status
