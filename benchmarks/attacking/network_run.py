"""A live run, without root, with each worker in its own network namespace; `in_namespaces.py` starts the workers."""

import json
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attacking.live import LiveRun, wait_for

PROGRAM = Path(__file__).with_name("in_namespaces.py")


def why_impossible() -> str:
    """Returns why users cannot make namespaces on this machine, or an empty text if they can."""
    script = "mount -t tmpfs tmpfs /run && ip netns add a && ip netns exec a true"
    try:
        found = subprocess.run(
            ["unshare", "-rnm", "--propagation", "private", "sh", "-c", script], capture_output=True, text=True
        )
    except FileNotFoundError:
        return "unshare is not here: apt-get install util-linux"
    return "" if found.returncode == 0 else f"no network namespaces for users: {found.stderr.strip()}"


class NetworkRun(LiveRun):
    """A `LiveRun` without a supervisor, whose workers and lighthouse are started by hand."""

    _stdin = subprocess.PIPE

    def __init__(self, *arguments: Any, **named: Any):
        if why := why_impossible():
            raise OSError(why)
        super().__init__(*arguments, **named)
        self.environment["MULOCO_SECRET"] = secrets.token_hex(32)

    def _command(self, config: str, flags: Sequence[str], own: Mapping[str, object]) -> list[str]:
        order = json.dumps(
            {"config": config, "settings": own, "logs": str(self.root / "logs"), "workers": self.workers}
        )
        return ["unshare", "-rnm", "--propagation", "private", sys.executable, str(PROGRAM), order]

    @property
    def supervisor(self) -> int:
        assert self.process is not None
        return self.process.pid

    def ask(self, *command: object, seconds: float = 60.0) -> str:
        """Sends a command to the program in the namespaces and returns its answer."""
        assert self.process is not None and self.process.stdin is not None
        before = len(self._answers())
        self.process.stdin.write((" ".join(map(str, command)) + "\n").encode())
        self.process.stdin.flush()
        wait_for(lambda: len(self._answers()) > before, seconds)
        return self._answers()[before:][0] if len(self._answers()) > before else "no answer"

    def _answers(self) -> list[str]:
        return [line.removeprefix("answer: ") for line in self.said().splitlines() if line.startswith("answer: ")]

    def end(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.processes()
            self.process.stdin.close()  # it ends its workers then
            self.wait(20)
        super().end()
