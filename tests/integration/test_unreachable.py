"""Workers in network namespaces of their own, of which two do not reach each other for a while."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from muloco.settings.load import CHECKOUT

from .waiting import wait_until

pytestmark = pytest.mark.integration

NOWHERE = "02:00:00:00:00:99"
"""A hardware address that nothing has: what is sent there is lost."""


@pytest.fixture
def shaped_link(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    import shaped_link

    reason = shaped_link.why_impossible()
    if reason:
        pytest.skip(reason)
    return shaped_link


def neighbour(network, worker: int, other: int, *action: str) -> None:
    """Changes where one worker's machine sends what is for another one's."""
    command = ["ip", "neighbor", action[0], network.address(other), "dev", "eth0", *action[1:]]
    subprocess.run(network.within(worker, command), check=True)


@pytest.mark.full
def test_one_of_two_that_do_not_reach_each_other_stays_out(shaped_link, tmp_path: Path) -> None:
    """Both reach the third worker, and the lighthouse beside it."""
    told: list[dict] = []
    environment = {"PYTHONPATH": f"{CHECKOUT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    with shaped_link.shaped_network(3, megabits=None) as network:

        def start(worker: int, lighthouse: str) -> None:
            words = [str(worker), "3", network.address(worker), lighthouse]
            command = [sys.executable, "-m", "tests.integration.reaching", *words]

            def hear(line: str) -> None:
                if worker == 0 and line.startswith("{"):
                    told.append(json.loads(line))

            network.spawn(worker, command, log=tmp_path / f"{worker}.log", environment=environment, on_line=hear)

        def syncs(workers: list[int]) -> list[dict]:
            return [line for line in told if line.get("workers") == workers]

        start(0, "")
        wait_until(lambda: told, "they do not go on", tmp_path)
        for worker in (1, 2):
            start(worker, told[0]["lighthouse"])
        wait_until(lambda: len(syncs([0, 1, 2])) >= 3, "they do not go on", tmp_path)
        for worker, other in ((1, 2), (2, 1)):
            neighbour(network, worker, other, "replace", "lladdr", NOWHERE, "nud", "permanent")
        wait_until(lambda: len(syncs([0, 1])) >= 12, "they do not go on", tmp_path)
        for worker, other in ((1, 2), (2, 1)):
            neighbour(network, worker, other, "del")
        together = len(syncs([0, 1, 2]))
        wait_until(lambda: len(syncs([0, 1, 2])) >= together + 3, "they do not go on", tmp_path)
        without = syncs([0, 1])
    attempts = [line["attempts"] for line in without]
    assert attempts[-10:].count(1) >= 8, "rounds do not fail any more"
    said = {worker: (tmp_path / f"{worker}.log").read_text() for worker in (1, 2)}
    assert all("worker 1 and worker 2 do not reach each other" in text for text in said.values())
    assert "worker 2 stays out of the rounds until they do" in said[2]
