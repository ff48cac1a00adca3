"""Copies of payloads between the device that makes them and the memory from which a process group sends."""

from collections.abc import Sequence

import torch


class Staging:
    """Copies payloads through page-locked host memory if they are made on an accelerator and sent from the host;
    otherwise it returns its input. The copies wait for the current stream only, not for the stream of the inner steps.

    Args:
        device: the device that makes and reads payloads.
        wire: the device from which the process group sends, and to which it receives.
    """

    def __init__(self, device: torch.device, wire: torch.device):
        self.wire = wire
        self._device = device
        self._pinned = wire.type == "cpu" and device.type != "cpu"

    def to_wire(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Returns the uint8 vectors on `wire`. Vectors that are already there are not copied, and a vector that occurs
        several times is copied once."""
        copies: dict[tuple[int, int], torch.Tensor] = {}
        staged = []
        for part in parts:
            if part.numel() and self._elsewhere(part.device):
                key = part.data_ptr(), part.numel()
                if key not in copies:
                    copies[key] = self.room(part.numel())
                    self._copy(copies[key], part)
                part = copies[key]
            staged.append(part)
        if copies:
            self._wait()
        return staged

    def room(self, size: int) -> torch.Tensor:
        """Returns an uninitialized uint8 vector of `size` bytes on `wire`."""
        return torch.empty(size, dtype=torch.uint8, device=self.wire, pin_memory=self._pinned)

    def from_wire(self, data: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Returns received bytes on a device. The copy is queued, and torch keeps `data` until it is done."""
        return data.to(device, non_blocking=True) if self._elsewhere(device) else data

    def _elsewhere(self, device: torch.device) -> bool:
        return device.type != self.wire.type

    def _copy(self, into: torch.Tensor, part: torch.Tensor) -> None:
        into.copy_(part, non_blocking=True)

    def _wait(self) -> None:
        torch.accelerator.current_stream(self._device).synchronize()
