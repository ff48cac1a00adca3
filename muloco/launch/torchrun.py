"""torchrun with as much patience as a worker needs to reach a sync and to save a checkpoint.

    python -m muloco.launch.torchrun SECONDS OPTIONS

is torchrun for torch 2.11, whose own kills the ranks 30 s after it has asked them to stop and has no option for it.
"""

import functools
import sys
from collections.abc import Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import api

_OPTION = "--shutdown-timeout"


def patient_torchrun(seconds: int) -> list[str]:
    """Arguments of python that start torchrun, to be followed by its options.

    Args:
        seconds: how long torchrun waits, after it has passed on a signal, before it kills the ranks that still run.
    """
    if _OPTION in run.get_args_parser().format_usage():
        return ["-m", "torch.distributed.run", f"{_OPTION}={seconds}"]
    return ["-m", "muloco.launch.torchrun", str(seconds)]


def main(words: Sequence[str]) -> None:
    """torchrun as in torch 2.11, with that patience."""
    seconds, *options = words
    api.PContext.close = functools.partialmethod(api.PContext.close, timeout=int(seconds))  # type: ignore[assignment]
    run.main(options)


if __name__ == "__main__":
    main(sys.argv[1:])
