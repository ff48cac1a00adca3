"""Bytes between the device that makes payloads and the memory that a process group sends from."""

from collections.abc import Sequence

import torch


class Staging:
    """Copies through page-locked host memory, where payloads are made on an accelerator and sent from the host; else
    hands on what it gets. Only the stream that is current waits, never the one of the inner steps beside it.

    Args:
        device: where payloads are made and read.
        wire: what the process group sends from and receives into.
    """

    def __init__(self, device: torch.device, wire: torch.device):
        self.wire = wire
        self._device = device
        self._pinned = wire.type == "cpu" and device.type != "cpu"

    def to_wire(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The uint8 vectors where they can be sent from; what is there already is not copied, and what several members
        get is copied once."""
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
        """That many bytes to send from or to receive into."""
        return torch.empty(size, dtype=torch.uint8, device=self.wire, pin_memory=self._pinned)

    def from_wire(self, data: torch.Tensor, device: torch.device) -> torch.Tensor:
        """What was received, on a device: the copy is queued, and torch keeps `data` until it is done."""
        return data.to(device, non_blocking=True) if self._elsewhere(device) else data

    def _elsewhere(self, device: torch.device) -> bool:
        return device.type != self.wire.type

    def _copy(self, into: torch.Tensor, part: torch.Tensor) -> None:
        into.copy_(part, non_blocking=True)

    def _wait(self) -> None:
        torch.accelerator.current_stream(self._device).synchronize()
