"""Claims a run folder for one supervisor and one run. The supervisor holds the lock of the folder, and writes the
config.json of the run at the start; if the start fails, it is removed or restored."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from muloco.errors import UserError
from muloco.files import write_whole
from muloco.runs.commits import has_trained
from muloco.runs.folder import RunFolder, unwritable, write_json
from muloco.runs.lock import only_one

_LOCK = ".training"
ENDING_SECONDS = 10.0
"""Seconds within which the workers of a supervisor that was killed end by themselves."""


@contextlib.contextmanager
def only_supervisor(folder: RunFolder) -> Iterator[None]:
    """Holds the lock of a run folder for the one supervisor that trains its run. If the last supervisor was killed, it
    first waits for its workers to end. A folder that was made here and is empty at the end is removed. Raises UserError
    if another supervisor trains the run."""
    made = [path for path in (folder.root, *folder.root.parents) if not path.exists()]
    try:
        with only_one(folder.root / _LOCK, f"the run in {folder.root} is being trained", grace=ENDING_SECONDS):
            yield
    finally:
        with contextlib.suppress(OSError):  # files are there
            for path in made:
                path.rmdir()


class Claim:
    """Writes config.json. Of two supervisors that start a run in one folder at the same time, one succeeds.

    Args:
        contents: of config.json.
        attempt: how many times the run has been started, this one included.
        fresh: whether the run is a new one, and not a resumed one.

    Raises:
        UserError: another run is there already, or the folder cannot be written to.
    """

    def __init__(self, folder: RunFolder, contents: dict[str, Any], *, attempt: int, fresh: bool):
        self._folder, self._attempt = folder, attempt
        self._before = None if fresh else folder.config.read_bytes()
        try:
            if fresh:
                folder.root.mkdir(parents=True, exist_ok=True)
                folder.config.open("x").close()
            if fresh or json.loads(self._before or "{}") != json.loads(json.dumps(contents)):
                write_json(folder.config, contents)
        except FileExistsError:
            raise taken(folder) from None
        except OSError as error:
            if fresh:
                self._remove()
            raise unwritable(error) from None

    def take_back(self) -> None:
        """Restores config.json, or removes that of a new run, unless a worker has trained. To be called after a start
        that failed."""
        if has_trained(self._folder, self._attempt):
            return
        if self._before is None:
            self._remove()
        elif self._folder.config.read_bytes() != self._before:
            write_whole(self._folder.config, self._before.decode())

    def _remove(self) -> None:
        self._folder.config.unlink(missing_ok=True)
        if {path.name for path in self._folder.root.iterdir()} <= {self._folder.attempts.name, _LOCK}:
            self._folder.attempts.unlink(missing_ok=True)  # no other file has the number of this attempt
        with contextlib.suppress(OSError):  # logs are there
            self._folder.root.rmdir()


def taken(folder: RunFolder) -> UserError:
    return UserError(f"{folder.root} already holds a run; choose another --run.name, or resume it with --resume")
