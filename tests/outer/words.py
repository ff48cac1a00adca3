"""Counts the memory of live tensors by their storages, which a caching allocator would have to hold."""

import threading
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from muloco.outer.loop.background import Pending

SECONDS = 300


class Ledger:
    """Bytes of the tensors that were made within `counting()` and are still alive. One may serve several threads."""

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0
        self.rounds_may_run = threading.Event()
        """What holds up rounds in threads of their own."""
        self._sizes: dict[int, int] = {}
        self._references: dict[int, weakref.ref] = {}
        self._lock = threading.RLock()

    def counting(self) -> "_Counting":
        """A context, of one thread."""
        return _Counting(self)

    def begin(self) -> int:
        """Resets the peak, and returns the words that are alive now."""
        self.peak = self.live
        return self.live // 4

    def see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        with self._lock:
            if key in self._sizes:
                return
            self._sizes[key] = storage.nbytes()
            self._references[key] = weakref.ref(storage, lambda _: self._gone(key))
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)

    def _gone(self, key: int) -> None:
        with self._lock:
            self.live -= self._sizes.pop(key)
            del self._references[key]


class _Counting(TorchDispatchMode):
    def __init__(self, ledger: Ledger):
        super().__init__()
        self.ledger = ledger

    def __enter__(self):
        _CURRENT.ledger = self.ledger
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self.ledger.see(value.untyped_storage())
        return result


_CURRENT = threading.local()


class CountedPending(Pending):
    """Work in another thread counts for its owner."""

    def __init__(self, *args, **options):
        self._ledger = getattr(_CURRENT, "ledger", None)
        super().__init__(*args, **options)

    def _run(self) -> None:
        if self._ledger is None or threading.current_thread() is not self._thread:
            super()._run()
        else:
            assert self._ledger.rounds_may_run.wait(SECONDS)
            with self._ledger.counting():
                super()._run()
