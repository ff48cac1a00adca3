"""Observations of a run from outside while it lasts."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from muloco.runs.folder import RunFolder
from muloco.training.environment import SECRET_FILE

from ..listening import command_lines, descendants, listening

SECONDS = 0.5


@dataclass
class Seen:
    listened: set[tuple[str, int]] = field(default_factory=set)
    """Addresses and ports that its processes have listened on."""
    commands: set[str] = field(default_factory=set)
    """Command lines of its processes."""
    secrets: set[str] = field(default_factory=set)
    modes: set[int] = field(default_factory=set)
    """Permissions of the file with the secret."""

    def look(self, process: int, folder: RunFolder) -> None:
        """Notes what a process and those below it do now."""
        file = folder.root / SECRET_FILE
        with contextlib.suppress(FileNotFoundError):
            self.modes.add(file.stat().st_mode & 0o7777)
            self.secrets.add(file.read_text().strip())
        self.secrets.discard("")  # it was about to be written
        processes = descendants(process)
        self.listened |= listening(processes)
        self.commands.update(command_lines(processes))


@contextlib.contextmanager
def watched(process: int, folder: RunFolder) -> Iterator[Seen]:
    """Watches a run, from its supervisor down."""
    seen, over = Seen(), threading.Event()

    def watch() -> None:
        while not over.wait(SECONDS):
            seen.look(process, folder)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
