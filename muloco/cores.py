"""The number of CPU cores that this process may use. Needs nothing but Python."""

import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """The number of cores that this process may run on, at least 1, or fewer if a control group, such as that of a
    container or of a SLURM job, grants it less processor time: a quota of 2.5 cores counts as 2. `root` is the folder
    of `proc` and `sys`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(int, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Processor time in cores, as each control group around this process limits it; see cgroups(7)."""
    for line in _words(root / "proc/self/cgroup", separator="\n"):
        hierarchy, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if hierarchy == "0":
            for group in _groups(root / "sys/fs/cgroup", path):
                yield from _quota(_words(group / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for mount in (root / "sys/fs/cgroup" / controllers, root / "sys/fs/cgroup/cpu"):
                for group in _groups(mount, path):
                    quota, period = (_words(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
                    yield from _quota([*quota, *period])


def _groups(mount: Path, path: str) -> Iterator[Path]:
    """A control group and its parents. Inside a container the path may be that of the host, which does not exist there,
    and the mount is the container's own group."""
    group = mount / path.strip("/")
    yield from (group, *(parent for parent in group.parents if parent.is_relative_to(mount)))


def _quota(words: list[str]) -> Iterator[float]:
    """Cores from microseconds of processor time and their period; not a number, or -1: no limit."""
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]) > 0:
        yield int(words[0]) / int(words[1])


def _words(file: Path, separator: str | None = None) -> list[str]:
    try:
        return file.read_text().split(separator)
    except OSError:
        return []
