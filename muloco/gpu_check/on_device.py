"""A pytest plugin that moves the tensors of tests to the GPU: `python -m pytest -p muloco.gpu_check.on_device
tests/optim`.

Tensors that are created without a device are created on the GPU. Random numbers from a CPU generator are drawn on the
CPU and moved, so that a test gets the same numbers, and `.numpy()` accepts tensors on the GPU. A test may fail only
because it compares with a tensor on the CPU. Without a GPU everything stays on the CPU.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors


class OnDevice(TorchFunctionMode):
    """A context in which tensors that are created without a device are created on `device`.

    Args:
        device: the device of the tensors.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _device_constructors() and kwargs.get("device") is None and kwargs.get("out") is None:
            generator = kwargs.get("generator")
            if generator is not None and generator.device.type == "cpu":
                return func(*args, **{**kwargs, "device": "cpu"}).to(self._device)
            return func(*args, **{**kwargs, "device": self._device})
        if func is torch.Tensor.numpy:
            return func(args[0].cpu(), *args[1:], **kwargs)
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def _on_device() -> Iterator[None]:
    with OnDevice(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")):
        yield
