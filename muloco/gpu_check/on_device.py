"""A plugin of pytest that moves tests to the GPU: `python -m pytest -p muloco.gpu_check.on_device tests/optim`.

What torch makes without being told where is made on the GPU. What is drawn from a generator of the CPU is drawn there
and moved, so that the numbers are those of the test; `.numpy()` takes what is on the GPU as well. A failure may be the
test's own, where it compares with something on the CPU. Without a GPU everything stays on the CPU.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors


class OnDevice(TorchFunctionMode):
    """Within the context, tensors are made on the device.

    Args:
        device: where.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self._device = device
        self._makers = _device_constructors()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._makers and kwargs.get("device") is None and kwargs.get("out") is None:
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
