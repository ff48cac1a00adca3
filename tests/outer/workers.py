"""Runs workers as threads; the first failure ends all and is raised."""

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from muloco.outer import TransportError
from muloco.outer.in_process import InProcessGroup

T = TypeVar("T")


def run_workers(group: InProcessGroup, work: Callable[[int], T]) -> list[T]:
    """`work(rank)` in a thread each; the results in rank order."""
    with ThreadPoolExecutor(group.size) as pool:
        futures = [pool.submit(work, rank) for rank in range(group.size)]
        wait(futures, return_when=FIRST_EXCEPTION)
        failures = [future.exception() for future in futures if future.done() and future.exception()]
        if failures:
            group.abort()
            raise next((f for f in failures if not isinstance(f, TransportError)), failures[0])
        return [future.result() for future in futures]
