"""The lighthouse comes back on its port."""

import os
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from muloco.launch import lighthouse as lighthouse_module
from muloco.launch.lighthouse import Lighthouse, LighthouseError, start_lighthouse
from muloco.outer.wire.lighthouse import serve

from ..patience import PATIENCE


def listens(address: str) -> bool:
    host, port = address.removeprefix("http://").rsplit(":", 1)
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((host, int(port))) == 0


def test_a_killed_lighthouse_is_started_again_where_it_was(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lighthouse_module, "RESTARTS", 2)
    children = []

    def start(port: int):
        started = start_lighthouse(workers=1, log=tmp_path / "lighthouse.log", port=port)
        children.append(started[0])
        return started

    lighthouse = Lighthouse(start)
    try:
        assert lighthouse.keep_alive() and len(children) == 1
        for restarts in (1, 2, 2):
            os.kill(lighthouse.child._process.pid, signal.SIGKILL)
            deadline = time.monotonic() + PATIENCE
            while lighthouse.child.status is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            alive = lighthouse.keep_alive()
            assert len(children) == restarts + 1
        assert not alive, "it is not started for ever"
        assert children[1] is not children[0] and not listens(lighthouse.address)
        assert lighthouse.child.reason() == "killed by SIGKILL"
    finally:
        for child in children:
            child.end(grace_seconds=5)


def test_a_port_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        lighthouse = Lighthouse(lambda port: start_lighthouse(workers=1, log=tmp_path / "log", port=port), port=taken)
        try:
            assert listens(lighthouse.address) and not lighthouse.address.endswith(f":{taken}")
        finally:
            lighthouse.child.end(grace_seconds=5)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "192.0.2.77", "no-such-host.invalid"])
def test_one_that_cannot_listen_says_where_and_what_to_change(host: str) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        limits = {"least": 1, "heartbeat_timeout": 1.0, "straggler_timeout": 1.0}
        with pytest.raises(OSError) as refusal:
            serve(host, port, secret=b"0123456789abcdef", tell=print, **limits)
    message = str(refusal.value)
    assert f"{host}:{port}: " in message and "--host" in message and "--port" in message and "\n" not in message


def test_its_address_stays(tmp_path: Path) -> None:
    children = []

    def start(port: int):
        started = start_lighthouse(workers=1, log=tmp_path / "lighthouse.log", port=port)
        children.append(started)
        return started

    lighthouse = Lighthouse(start)
    try:
        children[0][0].end(grace_seconds=5)
        assert lighthouse.keep_alive()
        assert children[0][1] == children[1][1] == lighthouse.address and listens(lighthouse.address)
    finally:
        for child, _ in children:
            child.end(grace_seconds=5)


def test_one_that_cannot_be_started_again_is_lost(tmp_path: Path, caplog) -> None:
    """As in a SLURM job that is being cancelled."""
    started = [start_lighthouse(workers=1, log=tmp_path / "lighthouse.log")]

    def start(port: int):
        if not started:
            raise LighthouseError("the lighthouse did not come up")
        return started.pop()

    lighthouse = Lighthouse(start)
    lighthouse.child.end(grace_seconds=5)
    assert not lighthouse.keep_alive()
    assert "the lighthouse did not come up" in caplog.text


def test_one_that_hangs_is_replaced(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lighthouse_module, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(lighthouse_module, "ANSWER_SECONDS", 0.5)
    children = []

    def start(port: int):
        started = start_lighthouse(workers=1, log=tmp_path / "lighthouse.log", port=port)
        children.append(started[0])
        return started

    lighthouse = Lighthouse(start)
    try:
        begun, deadline = time.monotonic(), time.monotonic() + PATIENCE
        while time.monotonic() - lighthouse._probe.silent_seconds <= begun:
            assert time.monotonic() < deadline, "it is not asked"
            time.sleep(0.05)
        assert lighthouse.keep_alive() and len(children) == 1
        os.kill(children[0]._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(lighthouse_module, "SILENT_SECONDS", 2)
        while len(children) == 1:
            assert lighthouse.keep_alive() and time.monotonic() < deadline
            time.sleep(0.05)
        assert children[0].status is not None and listens(lighthouse.address)
        with urllib.request.urlopen(f"{lighthouse.address}/status", timeout=30) as answer:
            assert answer.status == 200
    finally:
        for child in children:
            child.end(grace_seconds=5)
