"""The transport that a worker's config asks for."""

import errno
import socket

import pytest
import torch

from muloco.outer.in_process import InProcessGroup
from muloco.outer.wire import torchft
from muloco.settings.config import Config
from muloco.training.environment import LIGHTHOUSE, SECRET
from muloco.training.outer import _own_host, build_transport


def test_payloads_are_made_where_the_parameters_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codecs work on the device with gloo, too, which sends from the host."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), (SECRET, "a secret of a test")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(LIGHTHOUSE, "http://127.0.0.1:1")
    monkeypatch.setattr(torchft, "TorchftTransport", lambda **options: options)
    config, device = Config(), torch.device("cuda", 3)
    config.run.name, config.fault_tolerance.process_group = "run", "gloo"
    options = build_transport(config, None, device)
    assert options["device"] == device and options["host"] == "127.0.0.1" and options["secret"] == b"a secret of a test"
    assert build_transport(config, InProcessGroup(1), device).device == device


def test_a_rank_on_another_node_has_an_address_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """127.0.0.9 stands for the first node, on which alone a server can be bound to it."""

    def refuse(address: tuple[str, int]) -> socket.socket:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    assert _own_host("127.0.0.9", "http://127.0.0.9:1") == "127.0.0.9"
    monkeypatch.setattr(socket, "create_server", refuse)
    assert _own_host("127.0.0.9", "http://127.0.0.9:1") == "127.0.0.1"
