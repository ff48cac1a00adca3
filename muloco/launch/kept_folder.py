"""A run folder that is deleted while its run goes on."""

import logging

from muloco.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


class KeptFolder:
    """Notices that the folder of a run is gone, and makes it anew with what a restart of a worker and a resume need:
    config.json and attempts.log. The workers hold the state of the run, and save it when their next checkpoint is due.

    Args:
        folder: of the run, with its config.json.
    """

    def __init__(self, folder: RunFolder):
        self._folder = folder
        self._contents = {path: path.read_bytes() for path in (folder.attempts, folder.config) if path.exists()}
        self._told = False

    def watch(self) -> None:
        """To be called again and again."""
        if self._is_there():
            self._told = False
            return
        reason = self._restore()
        if not self._told:
            logger.error(
                "config.json is gone from the run folder %s, and so may be all else that was in it, such as "
                "checkpoints; the training goes on and saves a checkpoint when the next one is due; %s",
                *(self._folder.root, reason or "config.json is written again"),
            )
        self._told = True

    def _is_there(self) -> bool:
        try:
            return self._folder.config.exists()
        except OSError:
            return False

    def _restore(self) -> str | None:
        """What keeps the files from being written; None: they are there."""
        try:
            self._folder.root.mkdir(parents=True, exist_ok=True)
            for path, content in self._contents.items():
                path.write_bytes(content)
        except OSError as error:
            return f"config.json cannot be written again: {error}"
        return None
