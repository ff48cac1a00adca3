"""What a worker that is started by hand needs from its environment."""

import os
import socket
from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.outer.wire.network import Network
from muloco.resolve import resolve
from muloco.settings.config import Config
from muloco.settings.load import load_config
from muloco.settings.overrides import apply_overrides
from muloco.training import environment as environment_module
from muloco.training.environment import ATTEMPT, LIGHTHOUSE, SECRET, check_environment, secret_of

KNOWN = {SECRET: "a secret of the test"}
HERE = {LIGHTHOUSE: "http://127.0.0.1:29510", ATTEMPT: "1"}
RANKS = ["--parallelism.data_parallel_replicate_degree", "2", "--training.local_batch_size", "1"]


def config(*words: str) -> Config:
    return resolve(apply_overrides(load_config("config/laptop/muloco.py"), words))


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        ([], HERE, "the 2 workers of this run need a shared secret: export MULOCO_SECRET=$(openssl rand -hex"),
        ([], {**HERE, SECRET: ""}, "need a shared secret"),
        ([], {**HERE, SECRET: "0123456789"}, "the secret in MULOCO_SECRET has 10 characters, but needs at least 16"),
        ([], {}, "the 2 workers of this run need a lighthouse: set TORCHFT_LIGHTHOUSE=http://host:port"),
        ([], {LIGHTHOUSE: ""}, "need a lighthouse"),
        ([], {LIGHTHOUSE: "localhost:29510"}, "must be an address such as http://host:29510; got 'localhost:29510'"),
        ([], {LIGHTHOUSE: "http://localhost"}, "must be an address"),
        ([], {LIGHTHOUSE: "http://localhost:port"}, "must be an address"),
        ([], {LIGHTHOUSE: "http://localhost:99999"}, "must be an address"),
        (
            [],
            {LIGHTHOUSE: "http://127.0.0.1:1", **KNOWN},
            "no lighthouse answers at TORCHFT_LIGHTHOUSE=http://127.0.0.1:1: ",
        ),
        ([*RANKS], {LIGHTHOUSE: "http://a:1"}, "a worker of 2 ranks must be started by torchrun"),
        ([*RANKS], {LIGHTHOUSE: "http://a:1", "RANK": "0", "WORLD_SIZE": "3"}, "those of 3 ranks, but"),
        ([], {LIGHTHOUSE: "http://a:1", "RANK": "0"}, "those of no ranks, but"),
    ],
)
def test_a_worker_that_cannot_start_is_refused(
    words: list[str], environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_module, "LIGHTHOUSE_SECONDS", 0.1)
    with pytest.raises(UserError) as refusal:
        check_environment(config(*words), environment)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        ([], {LIGHTHOUSE: "http://node-1:29510", ATTEMPT: "1", **KNOWN}),
        (["--fault_tolerance.group_size", "1"], {}),
        (["--fault_tolerance.transport", "in_process"], {}),
        ([*RANKS], {LIGHTHOUSE: "http://a:1", ATTEMPT: "1", "RANK": "1", "WORLD_SIZE": "2", **KNOWN}),
    ],
)
def test_a_worker_that_can_start_is_not(words: list[str], environment: dict[str, str]) -> None:
    check_environment(config(*words), environment)


def test_a_worker_by_hand_finds_its_lighthouse() -> None:
    with socket.create_server(("127.0.0.1", 0)) as lighthouse:
        check_environment(config(), {LIGHTHOUSE: f"http://127.0.0.1:{lighthouse.getsockname()[1]}", **KNOWN})


def in_folder(outputs: Path, content: bytes = b"a secret of the folder\n", mode: int = 0o600) -> Config:
    chosen = config("--run.outputs", str(outputs), "--run.name", "run")
    file = outputs / "run" / ".secret"
    file.parent.mkdir()
    file.write_bytes(content)
    file.chmod(mode)
    return chosen


def test_the_secret_is_that_of_the_environment_or_of_the_run_folder(tmp_path: Path) -> None:
    chosen = in_folder(tmp_path)
    assert secret_of(chosen, KNOWN) == b"a secret of the test"
    assert secret_of(chosen, {}) == b"a secret of the folder"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602, 0o660])
def test_a_secret_that_others_may_know_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(
        UserError, match="must be a regular file that belongs to you and that nobody else can read or write"
    ):
        secret_of(in_folder(tmp_path, mode=mode), {})


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "short"])
def test_what_is_no_secret_is_refused(tmp_path: Path, kind: str) -> None:
    chosen = in_folder(tmp_path)
    file = tmp_path / "run" / ".secret"
    if kind == "short":
        file.write_bytes(b"short\n")
    else:
        file.rename(tmp_path / "elsewhere")
        make = {"link": lambda: file.symlink_to(tmp_path / "elsewhere"), "pipe": lambda: os.mkfifo(file, 0o600)}
        make.get(kind, file.mkdir)()
    with pytest.raises(UserError, match=r"\.secret"):
        secret_of(chosen, {})


def test_a_worker_with_another_secret_than_the_lighthouse_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lighthouse is behind a gate; 127.0.0.2 stands for an address that others reach."""
    monkeypatch.setattr("muloco.outer.wire.network.is_loopback", lambda host: host == "127.0.0.1")
    monkeypatch.setattr(environment_module, "LIGHTHOUSE_SECONDS", 0.1)
    station = Network("127.0.0.2", KNOWN[SECRET].encode())
    with socket.create_server(("127.0.0.1", 0)) as lighthouse:
        address = {LIGHTHOUSE: f"http://{station.announce(lighthouse.getsockname()[1])}"}
        try:
            check_environment(config(), {**address, **KNOWN})
            with pytest.raises(UserError, match="does not open: its secret is another one"):
                check_environment(config(), {**address, SECRET: "a secret of another run"})
        finally:
            station.close()
