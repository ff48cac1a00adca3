"""The secret of an attempt at a run, which its workers and its lighthouse get through their environment only."""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator, Mapping

from muloco.runs.folder import RunFolder
from muloco.training.environment import SECRET, SECRET_FILE, secret_in

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def secret_of_attempt(folder: RunFolder, environment: Mapping[str, str]) -> Iterator[str]:
    """Yields the secret that the user has set in the environment, or a new random one. In the meantime the secret is
    also in a file in the run folder that only this user can read, for workers that are started by hand. Raises
    UserError if the user's secret is too short."""
    secret = os.fsdecode(secret_in(environment)) if environment.get(SECRET) else secrets.token_hex(32)
    file = folder.root / SECRET_FILE
    try:
        file.unlink(missing_ok=True)  # left over from an attempt that was killed
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(file, flags, 0o600), "wb") as opened:
            os.fchmod(opened.fileno(), 0o600)  # whatever the umask
            opened.write(os.fsencode(secret) + b"\n")
    except OSError as error:
        logger.warning("%s cannot be written (%s): workers started by hand need %s", file, error.strerror, SECRET)
    try:
        yield secret
    finally:
        with contextlib.suppress(OSError):
            file.unlink()
