"""torchrun that gives its ranks enough time to reach a sync and to save a checkpoint after a signal.

    python -m muloco.launch.torchrun SECONDS OPTIONS

starts torchrun of torch 2.11, which otherwise kills the ranks 30 s after it has asked them to stop, without an option.
"""

import functools
import sys
from collections.abc import Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import api

_OPTION = "--shutdown-timeout"


def patient_torchrun(seconds: int) -> list[str]:
    """Returns the arguments of python that start torchrun; its options follow them.

    Args:
        seconds: how long torchrun waits, after it has passed on a signal, before it kills the ranks that still run.
    """
    if _OPTION in run.get_args_parser().format_usage():
        return ["-m", "torch.distributed.run", f"{_OPTION}={seconds}"]
    return ["-m", "muloco.launch.torchrun", str(seconds)]


def main(words: Sequence[str]) -> None:
    """Runs torchrun of torch 2.11, which waits the given seconds before it kills ranks."""
    seconds, *options = words
    api.PContext.close = functools.partialmethod(api.PContext.close, timeout=int(seconds))  # type: ignore[assignment]
    run.main(options)


if __name__ == "__main__":
    main(sys.argv[1:])
