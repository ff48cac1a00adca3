"""What a lost connection is called in a worker's log."""

from types import SimpleNamespace

import pytest
import torch

from muloco.outer.staging import Staging
from muloco.outer.torchft import TorchftRound, _in_short
from muloco.outer.transport import TransportError


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
    assert _in_short(RuntimeError(said)) == short


def test_a_failed_exchange_says_its_step_once() -> None:
    """Those who tell of it name the step: the error itself does not."""
    transport = SimpleNamespace(
        group=SimpleNamespace(place=0, members=2, connected=False, swap=None),
        device=torch.device("cpu"),
        staging=Staging(torch.device("cpu"), torch.device("cpu")),
    )
    round = TorchftRound(transport, step=3, broken=None)  # type: ignore[arg-type]
    with pytest.raises(TransportError, match=r"^this worker was cut off$"):
        round.exchange([torch.zeros(1, dtype=torch.uint8)] * 2, [1, 1])
