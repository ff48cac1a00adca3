"""The ports on which processes listen, from the tables of Linux."""

import contextlib
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path

LISTEN = "0A"


def listening(processes: Iterable[int]) -> set[tuple[str, int]]:
    """Addresses and TCP ports that these processes listen on."""
    found = set()
    for process in processes:
        folder = Path(f"/proc/{process}")
        inodes = set()
        try:
            for descriptor in (folder / "fd").iterdir():
                try:
                    inodes.add(os.readlink(descriptor))
                except FileNotFoundError:  # closed meanwhile
                    continue
            rows = [
                line.split() for name in ("tcp", "tcp6") for line in (folder / "net" / name).read_text().splitlines()
            ]
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        for row in rows:
            if row[3] == LISTEN and f"socket:[{row[9]}]" in inodes:
                address, port = row[1].split(":")
                found.add((_readable(address), int(port, 16)))
    return found


def descendants(process: int) -> set[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = status.read_text().split(" (", 1)
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(rest.rpartition(") ")[2].split()[1]), []).append(int(number))
    found, new = {process}, [process]
    while new:
        new = [child for parent in new for child in parents.get(parent, [])]
        found.update(new)
    return found


def command_lines(processes: Iterable[int] | None = None) -> list[str]:
    """Returns the ports of these processes, or of all processes on this machine."""
    if processes is None:
        processes = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    found = []
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(Path(f"/proc/{process}/cmdline").read_text(errors="replace").replace("\0", " "))
    return found


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def _readable(hexadecimal: str) -> str:
    """The kernel prints words of 32 bits in its own byte order."""
    words = [bytes.fromhex(hexadecimal[start : start + 8])[::-1] for start in range(0, len(hexadecimal), 8)]
    return str(ipaddress.ip_address(b"".join(words)))
