"""Counts of the launches and bytes that operations would take on a GPU, on tensors without data."""

import inspect
import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from muloco.outer.codecs import fitting, kernels, quantized

_FOREACH_BLOCKS, _FOREACH_BLOCK, _FOREACH_TENSORS = 320, 65536, 30
"""What torch's kernels for lists of tensors take at once: so many blocks of so many elements, and so many tensors."""
_WITHOUT_WORK = ("empty", "detach", "lift_fresh", "_unsafe_view", "alias")
_OVERWRITE = ("copy_", "zero_", "fill_", "_foreach_copy_")


class Launches(TorchDispatchMode):
    """Counts what torch launches, one kernel an operation, and what that reads and writes, each tensor once; and the
    launches of Triton kernels, which do nothing then.

    A kernel reads its elements once, and writes (or reads) the packed codes once: `interpreted.py` shows that. Tables
    of totals count where they are zeroed, summed and fitted (of what the fit goes through several times, a row lies in
    a cache); additions to them stay within a cache.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.kernels: list[tuple[triton.JITFunction, dict]] = []
        """The kernels of Triton, and their arguments by name."""
        self.bytes = 0
        monkeypatch.setattr(quantized, "takes_kernels", lambda device: True)
        for name in ("_statistics", "_combine", "_count", "_pack", "_unpack"):
            monkeypatch.setattr(kernels, name, _Recorder(self, name, getattr(kernels, name)))
        monkeypatch.setattr(fitting, "_fit", _Recorder(self, "_fit", fitting._fit))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        name = func.__name__.split(".")[0]
        schema = func._schema
        view = any(value.alias_info is not None and not value.alias_info.is_write for value in schema.returns)
        if view or name.removeprefix("new_").startswith(_WITHOUT_WORK):
            return result
        kwargs.pop("out", None)
        read = args[1:] if name in _OVERWRITE else args
        written = args[0] if name.startswith("_foreach") and name.endswith("_") else result
        self.bytes += sum(map(_size, [*_tensors((read, kwargs)), *_tensors(written)]))
        self.launches[name] += _pieces_of_work(written) if name.startswith("_foreach") else 1
        return result

    @property
    def total(self) -> int:
        return sum(self.launches.values())


class _Recorder:
    """Stands for a kernel."""

    def __init__(self, counter: Launches, name: str, kernel):
        self._counter, self._name, self._kernel = counter, name, kernel
        self._parameters = inspect.signature(kernel.fn)

    def __getitem__(self, grid):
        return self._launch

    def _launch(self, *args, enable_fp_fusion: bool = True) -> None:
        given = self._parameters.bind(*args).arguments
        self._counter.launches[self._name] += 1
        self._counter.kernels.append((self._kernel, dict(given)))
        if self._name == "_fit":
            self._counter.bytes += 2 * sum(given[name].nbytes for name in ("counts", "sums", "shares", "running"))
            return
        rows = len(given["counts"]) if self._name == "_count" else len(given["starts"]) * given["rows"]
        elements = rows * given["columns"]
        self._counter.bytes += {
            "_statistics": lambda: 4 * elements + given["partials"].nbytes,
            "_combine": lambda: given["partials"].nbytes + given["found"].nbytes,
            "_count": lambda: 4 * elements,
            "_pack": lambda: 4 * elements + given["codes"].numel(),
            "_unpack": lambda: given["codes"].numel() + (8 if given["ADD"] else 4) * elements,
        }[self._name]()


def _tensors(tree) -> Sequence[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _size(tensor: torch.Tensor) -> int:
    """Returns the bytes of a tensor. Of an expanded view, only the existing elements count."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _pieces_of_work(tensors: Sequence[torch.Tensor]) -> int:
    blocks = sum(math.ceil(tensor.numel() / _FOREACH_BLOCK) for tensor in tensors)
    return max(math.ceil(blocks / _FOREACH_BLOCKS), math.ceil(len(tensors) / _FOREACH_TENSORS))
