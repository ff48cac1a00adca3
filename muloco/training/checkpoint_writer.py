"""Writes the parts of a checkpoint, in a thread beside the training or at once; what fails is not lost."""

import contextlib
import copy
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.utils._pytree import tree_map

from muloco import sharding
from muloco.errors import RunFailed
from muloco.failpoints import hit
from muloco.runs.checkpoint_folder import CheckpointFolder
from muloco.runs.digests import DigestingStream
from muloco.runs.manifest import Save, Stored

logger = logging.getLogger(__name__)


class CheckpointNotWritten(RunFailed):
    """The disk did not take a checkpoint; the message says which part, and why."""


class CheckpointWriter:
    """One worker's saves, one after the other. All ranks of the worker make one and give it the same saves. If it is
    asynchronous, it copies the state to host memory and writes it while the training goes on. So many checkpoints are
    kept; 0: all."""

    def __init__(self, folder: CheckpointFolder, *, asynchronous: bool, keep: int):
        self._folder = folder
        self._keep = keep
        self._leads = dist.get_rank() == 0
        self.ranks = dist.new_group(backend="gloo")
        """All ranks of the worker. It is used beside the groups of the training, while a save is on its way."""
        self._asynchronous = asynchronous
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def begin(self, save: Save, parts: Mapping[str, dict[str, Any]]) -> None:
        """Starts a save of these parts of this worker, by name; the save before has to be done with (`finish`)."""
        assert self._running is None
        if self._asynchronous:
            # torch's own stager fails on views of one storage
            parts = tree_map(lambda x: sharding.to_host(x) if isinstance(x, torch.Tensor) else copy.deepcopy(x), parts)
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
        self._running = self._thread.submit(self._write, save, parts)
        if not self._asynchronous:
            wait([self._running])

    @property
    def done(self) -> bool:
        """Whether a save is to be finished, for which nobody has to wait any more."""
        return self._running is not None and self._running.done()

    def finish(self) -> None:
        """Waits for the save that was begun, if there is one.

        Raises:
            CheckpointNotWritten: the disk did not take it.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Frees what it holds; to be called behind `finish`."""
        self._thread.shutdown()

    def _write(self, save: Save, parts: Mapping[str, dict[str, Any]]) -> None:
        started = time.monotonic()
        try:
            written = {name: self._write_part(save.step, name, state) for name, state in parts.items()}
            hit("checkpoint")
            if self._leads:
                self._publish(save, written)
        except OSError as error:
            raise CheckpointNotWritten(f"checkpoint step-{save.step} was not written: {error}") from error
        finally:
            if self._leads:
                for name in parts:  # nothing, but for a failure
                    shutil.rmtree(self._folder.unfinished(save.step, name), ignore_errors=True)
        logger.info("wrote checkpoint step-%d in %.2f s", save.step, time.monotonic() - started)

    def _write_part(self, step: int, name: str, state: dict[str, Any]) -> dict[str, Stored]:
        """Returns the files that all ranks have written, by name, on the rank that leads; nothing on others."""
        writer = dcp.FileSystemWriter(self._folder.unfinished(step, name))
        writer.fs = files = _FileSystem()
        try:
            dcp.save(state, storage_writer=writer, process_group=self.ranks)
        except CheckpointException as failure:
            errors = [error for error, _ in failure.failures.values()]
            raise next((error for error in errors if isinstance(error, OSError)), errors[0]) from failure
        every: list[dict[str, Stored]] = [{} for _ in range(dist.get_world_size(self.ranks))] if self._leads else []
        dist.gather_object(files.written, every or None, group=self.ranks)
        return {file: stored for written in every for file, stored in written.items()}

    def _publish(self, save: Save, written: Mapping[str, Mapping[str, Stored]]) -> None:
        for name, files in written.items():
            self._folder.publish(save, name, files)
        if self._folder.complete(save):
            self._folder.purge(self._keep, newest=save.step)


class _FileSystem(FileSystem):
    """torch's file system, with a digest of every file that is written, and with errors that name the file. Without
    this, torch's zip writer hides the error of a full disk behind one of its own."""

    def __init__(self) -> None:
        self.written: dict[str, Stored] = {}
        """Files by name."""

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike, mode: str) -> Iterator[Any]:
        try:
            with super().create_stream(path, mode) as file:
                stream = DigestingStream(cast(IO[bytes], file))
                yield stream
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise OSError(cause.errno, cause.strerror, str(Path(path))) from error
        self.written[Path(path).name] = Stored(bytes=stream.bytes, sha256=stream.sha256)

    def rename(self, path: str | os.PathLike, new_path: str | os.PathLike) -> None:
        super().rename(path, new_path)
        self.written[Path(new_path).name] = self.written.pop(Path(path).name)
