"""torchrun with the changes that the supervisor needs.

    python -m muloco.launch.torchrun SECONDS OPTIONS

starts torchrun so that it gives its ranks these seconds to reach a sync and to save a checkpoint after a signal. torch
2.11 has no option for that, and kills them after 30 s. Among its rendezvous backends is `loopback`, for the ranks of
one machine: its store listens on loopback alone, where that of `--standalone` listens on all interfaces. The exit
status is that of a rank that has failed (`muloco.errors`), where torchrun's own is always 1.
"""

import functools
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException, api
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousInfo, RendezvousParameters, rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from muloco.errors import FAILED, AttemptFailed, RunFailed, UserError, rank_ends
from muloco.outer.wire.gate import LOOPBACK
from muloco.outer.wire.store import loopback_store

BACKEND = "loopback"
_OPTION = "--shutdown-timeout"
_KILLED = (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS)
"""Exit statuses of ranks that had no time to say why they ended, and did not end because of another rank."""


class LoopbackRendezvous(StaticTCPRendezvous):
    """Rendezvous of the ranks that one torchrun starts on this machine, with a store that listens on loopback."""

    def __init__(self, parameters: RendezvousParameters):
        super().__init__(LOOPBACK, 0, rank=0, world_size=1, run_id=parameters.run_id, timeout=0)

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        self._store = loopback_store()
        self.master_port = self._store.port
        return super().next_rendezvous()


def main(words: Sequence[str]) -> None:
    """Runs torchrun with the given number of seconds to wait before it kills ranks."""
    seconds, *options = words
    rendezvous_handler_registry.register(BACKEND, LoopbackRendezvous)
    if _OPTION in run.get_args_parser().format_usage():
        options = [f"{_OPTION}={seconds}", *options]
    else:
        api.PContext.close = functools.partialmethod(api.PContext.close, timeout=int(seconds))  # type: ignore[assignment]
    try:
        run.main(options)
    except ChildFailedError as error:
        traceback.print_exception(error)
        for rank, failure in error.failures.items():
            if failure.exitcode in _KILLED:
                sys.stderr.write(rank_ends(rank, FAILED, f"killed by {signal.Signals(-failure.exitcode).name}"))
        sys.exit(status_of(failure.exitcode for failure in error.failures.values()))
    except SignalException as error:
        traceback.print_exception(error)
        sys.exit(128 + error.sigval)


def status_of(ranks: Iterable[int]) -> int:
    """Returns the exit status of a worker, given those of its ranks that have failed (negative: a signal). A rank that
    knows what the failure means has precedence over those that failed as a consequence."""
    statuses = set(ranks)
    meant = (UserError.exit_status, RunFailed.exit_status, AttemptFailed.exit_status)
    return next((status for status in meant if status in statuses), FAILED)


if __name__ == "__main__":
    main(sys.argv[1:])
