"""Errors in a user's data, and the count of what is skipped."""

import logging
from pathlib import Path

from muloco.errors import UserError

logger = logging.getLogger(__name__)


REFUSED = "data.strict refuses what is skipped and counted without it"


class DamagedCacheError(UserError):
    """A cache entry is damaged: it has to be deleted and prepared again."""

    def __init__(self, folder: Path, problem: str):
        super().__init__(f"damaged prepared corpus: {problem}; delete the folder {folder} and prepare again")


class BadRecord(Exception):
    """One record holds no text; the message says why. The reader of the record tells `Skipped`."""


class Skipped:
    """Names and counts what one pass over a source leaves out, or refuses it if it is strict. If it is quiet, it only
    counts, as an earlier pass has named the same."""

    NAMED = 10
    """So many are named in the log; the rest is counted."""

    def __init__(self, *, strict: bool, quiet: bool = False):
        self.count = 0
        self.first: str | None = None
        self._strict, self._quiet = strict, quiet

    def skip(self, where: str, reason: str) -> None:
        """Raises UserError if strict."""
        if self._strict:
            raise UserError(f"{where}: {reason}; {REFUSED}")
        self.count += 1
        self.first = self.first or f"{where}: {reason}"
        if self.count <= self.NAMED and not self._quiet:
            logger.warning("skipped %s: %s", where, reason)
        if self.count == self.NAMED and not self._quiet:
            logger.warning("more of these are counted, not named")

    def __str__(self) -> str:
        return f"skipped {self.count}" + (f" (first: {self.first})" if self.first else "")
