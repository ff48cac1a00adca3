"""The transport that a worker's config asks for."""

import pytest
import torch

from muloco.outer import torchft
from muloco.outer.in_process import InProcessGroup
from muloco.training.config import Config
from muloco.training.environment import LIGHTHOUSE, SECRET
from muloco.training.outer import build_transport


def test_payloads_are_made_where_the_parameters_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codecs work on the device with gloo, too, which sends from the host."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(LIGHTHOUSE, "http://127.0.0.1:1")
    monkeypatch.setenv(SECRET, "a secret of a test")
    monkeypatch.setattr(torchft, "TorchftTransport", lambda **options: options)
    config, device = Config(), torch.device("cuda", 3)
    config.run.name, config.fault_tolerance.process_group = "run", "gloo"
    assert build_transport(config, None, device)["device"] == device
    assert build_transport(config, InProcessGroup(1), device).device == device
