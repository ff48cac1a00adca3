"""Parts of a run folder on small file systems that can be filled, in a mount namespace, without root."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

KIB = {"logs": 1024, "metrics": 8192, "checkpoint": 65536, "commits": 1024}
"""Size of each part."""


class SmallDisks:
    """A mount namespace that lasts until `end` is called.

    Args:
        root: the run folder.
        kib: size of each part, by name.

    Raises:
        OSError: this machine does not allow it; the message says why.
    """

    def __init__(self, root: Path, kib: Mapping[str, int] = KIB):
        self._root, self._parts = root, list(kib)
        mounts = [
            f"mkdir -p '{root}/{part}' && mount -t tmpfs -o size={size}k tmpfs '{root}/{part}'"
            for part, size in kib.items()
        ]
        script = " && ".join([*mounts, "echo ready && exec sleep 100000"])
        self._holder = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline().strip() != "ready":
            raise OSError(f"no mount namespace: {self._holder.stderr.read().strip()}")

    @property
    def within(self) -> list[str]:
        """Returns the command that runs another one in the namespace."""
        return ["nsenter", f"--target={self._holder.pid}", "--user", "--mount", "--preserve-credentials", "--"]

    @property
    def view(self) -> Path:
        """Path at which this process finds the root of the namespace."""
        return Path(f"/proc/{self._holder.pid}/root")

    def part(self, name: str) -> Path:
        return self.view / self._root.relative_to("/") / name

    def fill(self, *parts: str) -> None:
        """Fills parts (default: all) to the last byte."""
        for part in parts or self._parts:
            with (self.part(part) / "filler").open("ab", buffering=0) as file:
                for block in (65536, 4096, 64, 1):
                    try:
                        while file.write(bytes(block)):
                            pass
                    except OSError:
                        continue

    def free(self, *parts: str) -> None:
        for part in parts or self._parts:
            (self.part(part) / "filler").unlink(missing_ok=True)

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()
