"""Weights in a folder of safetensors files, as Hugging Face lays them out: one file, or shards with an index.

Reading the names and shapes in a folder needs no torch.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def write_weights(folder: Path, sizes: Mapping[str, int], tensors: Iterable[tuple[str, "Tensor"]], *, largest: int):
    """Writes tensors as they come, so that no more than one file of them is held.

    Args:
        sizes: bytes of each tensor, by name, in the order in which they come.
        tensors: names and tensors, plain, on any device.
        largest: bytes of a file, from which a next one is begun; a larger tensor gets a file of its own.
    """
    from safetensors.torch import save_file

    files: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if files[-1] and filled + size > largest:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += size
    titles = [SINGLE]
    if len(files) > 1:
        titles = [f"model-{number + 1:05d}-of-{len(files):05d}.safetensors" for number in range(len(files))]
    coming = iter(tensors)
    for title, names in zip(titles, files, strict=True):
        part = dict(next(coming) for _ in names)
        assert list(part) == names
        file = folder / title
        file.touch()
        mode = file.stat().st_mode  # by the umask, as safetensors makes files that only their owner can read
        save_file({name: t.detach().cpu().contiguous() for name, t in part.items()}, file, {"format": "pt"})
        file.chmod(mode)
    if len(files) > 1:
        where = {name: title for title, names in zip(titles, files, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


class WeightsFolder:
    """The weights in a folder: their names and shapes, from the headers of the files, and one tensor at a time.

    Raises:
        ValueError: there are none, or files that the index names are missing or damaged; in one line.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        if (index := folder / INDEX).is_file():
            titles = _titles(index)
        elif (folder / SINGLE).is_file():
            titles = [SINGLE]
        else:
            raise ValueError(f"{folder} holds no weights: neither {SINGLE} nor {INDEX}")
        self._file: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Shape of each tensor, by name."""
        for file in (folder / title for title in titles):
            try:
                with safe_open(file, framework="np") as opened:
                    for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                        self._file[name], self.shapes[name] = file, tuple(opened.get_slice(name).get_shape())
            except FileNotFoundError:
                raise ValueError(f"{file} is missing") from None
            except SafetensorError as error:
                raise ValueError(f"{file} is no safetensors file, damaged or cut off ({error})") from None

    def read(self, name: str) -> "Tensor":
        """A tensor, in host memory, in the dtype that it was written in."""
        with safe_open(self._file[name], framework="pt") as file:
            return file.get_tensor(name)


def check_names(actual: Collection[str], wanted: Collection[str], *, where: str) -> None:
    """Raises ValueError unless the two sets of names are equal: nothing may be left over or missing."""
    missing, unknown = set(wanted) - set(actual), set(actual) - set(wanted)
    for names, what in ((missing, "lacks"), (unknown, "has, which the model has not,")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{where} {what} {min(names)}{more}")


def _titles(index: Path) -> list[str]:
    """Names of the files that an index names."""
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, TypeError, AttributeError, LookupError):
        raise ValueError(f"{index} is damaged, or not an index of weights") from None
