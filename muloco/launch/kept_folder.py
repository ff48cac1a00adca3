"""A run folder that is deleted while its run goes on."""

import logging
import os

from muloco.runs.folder import RunFolder

logger = logging.getLogger(__name__)


class KeptFolder:
    """Notices that the folder of a run is gone, and restores the files that restarts and resumes need: config.json and
    attempts.log. The workers hold the state of the run, and save it when their next checkpoint is due."""

    def __init__(self, folder: RunFolder):
        self._folder = folder
        self._contents = {path: path.read_bytes() for path in (folder.attempts, folder.config) if path.exists()}
        self._told = False

    def watch(self) -> None:
        """Looks once; has to be called regularly."""
        if os.path.exists(self._folder.config):  # False also where the file cannot be accessed
            self._told = False
            return
        reason = self._restore()
        if not self._told:
            logger.error(
                "config.json is missing in the run folder %s, and other files, such as checkpoints, may be missing "
                "too; the training goes on and saves a checkpoint when the next one is due; %s",
                self._folder.root,
                reason or "config.json is written again",
            )
        self._told = True

    def _restore(self) -> str | None:
        """Writes the missing files; returns why that is not possible, or None."""
        try:
            self._folder.root.mkdir(parents=True, exist_ok=True)
            for path, content in self._contents.items():
                path.write_bytes(content)
        except OSError as error:
            return f"config.json cannot be written again: {error}"
        return None
