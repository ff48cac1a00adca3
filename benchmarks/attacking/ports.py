"""The TCP ports on which processes listen, from /proc. For one's own processes this needs no root."""

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"


@dataclass(frozen=True)
class Port:
    """A socket that waits for connections."""

    address: str
    number: int
    process: int
    owner: str
    """Description of the process, such as `worker 1`."""

    @property
    def on_loopback(self) -> bool:
        found = ipaddress.ip_address(self.address)
        mapped = getattr(found, "ipv4_mapped", None)
        return (mapped or found).is_loopback

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.number}"


def listening(processes: Iterable[tuple[int, str]]) -> list[Port]:
    """Returns the ports on which some processes listen.

    Args:
        processes: id and description of each.
    """
    found = []
    for process, owner in processes:
        sockets = _sockets(process)
        for table in ("tcp", "tcp6"):  # of the process's own network namespace
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
                    words = line.split()
                    if words[3] == _LISTEN and words[9] in sockets:
                        address, number = _parsed(words[1])
                        found.append(Port(address, number, process, owner))
    return sorted(found, key=lambda port: (port.owner, port.number))


def listing(ports: Iterable[Port]) -> str:
    """Returns a table of ports, with one in each line."""
    rows = [f"{'process':<14} {'listens on':<24} loopback"]
    rows += [f"{port.owner:<14} {port!s:<24} {'yes' if port.on_loopback else 'NO'}" for port in ports]
    return "\n".join(rows)


def _sockets(process: int) -> set[str]:
    """Returns the inodes of the sockets of a process."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{process}/fd"):
            with contextlib.suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry.path)):
                    found.add(match[1])
    return found


def _parsed(word: str) -> tuple[str, int]:
    """Address and port from `HEX:HEX`; addresses are words of four bytes in the machine's order (little-endian)."""
    raw, port = word.split(":")
    data = b"".join(bytes.fromhex(raw[start : start + 8])[::-1] for start in range(0, len(raw), 8))
    return str(ipaddress.ip_address(data)), int(port, 16)
