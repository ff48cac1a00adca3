"""What a lost connection is called in a worker's log."""

from types import SimpleNamespace

import pytest
import torch

from muloco.outer.protocol.peer_round import PeerRound
from muloco.outer.protocol.staging import Staging
from muloco.outer.protocol.transport import TransportError
from muloco.outer.wire.peer_group import in_short
from muloco.outer.wire.torchft import TorchftWire


@pytest.mark.parametrize(
    ("said", "short"),
    [
        (
            "[/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:9135: Connection "
            "reset by peer. This is typically caused by a remote worker hanging or bugs in the application. Check the "
            "logs of the remote worker before reporting an error. GLHF! \N{BEACH WITH UMBRELLA}",
            "Read error [127.0.0.1]:9135: Connection reset by peer",
        ),
        ("Aborted\nException raised from work at f.cpp:1 (most recent call first):\nframe #0: f", "Aborted"),
    ],
)
def test_the_sentence_that_matters(said: str, short: str) -> None:
    assert in_short(RuntimeError(said)) == short


def unconnected(swap: object, *, connected: bool) -> PeerRound:
    """A round of two members over a group that exchanges nothing."""
    cpu = torch.device("cpu")
    group = SimpleNamespace(place=0, size=2, workers=(0, 1), strangers=())
    wire = TorchftWire.__new__(TorchftWire)
    wire.group = SimpleNamespace(connected=connected, swap=swap)  # type: ignore[assignment]
    transport = SimpleNamespace(wire=wire, group=group, device=cpu, staging=Staging(cpu, cpu))
    return PeerRound(transport, step=3, failure=None)  # type: ignore[arg-type]


def test_a_failed_exchange_says_its_step_once() -> None:
    """The error leaves the step to its callers, which log it."""
    with pytest.raises(TransportError, match=r"^this worker was cut off$"):
        unconnected(None, connected=False).exchange([torch.zeros(1, dtype=torch.uint8)] * 2, [1, 1])


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_failure_of_the_own_device_is_no_lost_contact(kind: type[RuntimeError]) -> None:
    """A repeated round would meet the same error again."""

    def swap(*args: object) -> None:
        raise kind("out of order")

    with pytest.raises(kind, match="out of order"):
        unconnected(swap, connected=True).exchange([torch.zeros(1, dtype=torch.uint8)] * 2, [1, 1])
