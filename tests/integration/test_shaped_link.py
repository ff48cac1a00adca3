"""Shaped links carry what they are told to, and leave nothing behind."""

import subprocess

import pytest

from muloco.settings.load import CHECKOUT

pytestmark = pytest.mark.integration


@pytest.fixture
def shaped_link(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    import shaped_link

    reason = shaped_link.why_impossible()
    if reason:
        pytest.skip(reason)
    return shaped_link


@pytest.mark.parametrize(("workers", "megabits"), [(2, 20), (3, 100)])
def test_a_link_carries_its_rate_and_no_more(shaped_link, workers: int, megabits: float) -> None:
    with shaped_link.shaped_network(workers, megabits=megabits) as network:
        for sender, receiver in ((0, workers - 1), (workers - 1, 0)):
            # busy cores may make it slower, but nothing makes it faster
            assert megabits / 10 < network.measured_megabits(sender, receiver) < 1.3 * megabits


def test_namespaces_and_processes_go_with_the_network(shaped_link, tmp_path) -> None:
    with pytest.raises(KeyError), shaped_link.shaped_network(2, megabits=None) as network:
        child = network.spawn(1, ["sleep", "1000"], log=tmp_path / "log")
        assert child.status is None
        raise KeyError
    assert child.status is not None
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not set(left.split()) & {network.switch, *network.namespaces}
