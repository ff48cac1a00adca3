"""Runs workers as threads that take turns; the first failure of all is raised."""

import threading
from collections.abc import Callable
from typing import TypeVar

from muloco.outer import TransportError
from muloco.outer.in_process import InProcessGroup

T = TypeVar("T")


def run_workers(group: InProcessGroup, work: Callable[[int], T]) -> list[T]:
    """`work(worker)` in a thread each; the results in the workers' order."""
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    def run(worker: int) -> None:
        try:
            with group.taking_turns(worker):
                results[worker] = work(worker)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(group.size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((f for f in failures if not isinstance(f, TransportError)), failures[0])
    return [results[worker] for worker in range(group.size)]
