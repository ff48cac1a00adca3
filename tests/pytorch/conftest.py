"""All numbers in one precision."""

import importlib

import pytest
import torch


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    """One thread, and products in float32 whatever the hardware likes."""
    module = importlib.import_module("muloco.optim.newton_schulz")
    monkeypatch.setattr(module, "_fast_dtype", lambda device_type: torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
