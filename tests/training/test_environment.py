"""What a worker that is started by hand needs from its environment."""

import socket

import pytest

from muloco.training import environment as environment_module
from muloco.training.config import Config
from muloco.training.environment import ATTEMPT, LIGHTHOUSE, check_environment
from muloco.training.load import ConfigError, apply_overrides, load_config
from muloco.training.resolve import resolve

RANKS = ["--parallelism.data_parallel_replicate_degree", "2", "--training.local_batch_size", "1"]


def config(*words: str) -> Config:
    return resolve(apply_overrides(load_config("config/laptop/muloco.py"), words))


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        ([], {}, "the 2 workers of this run need a lighthouse: set TORCHFT_LIGHTHOUSE=http://host:port"),
        ([], {LIGHTHOUSE: ""}, "need a lighthouse"),
        ([], {LIGHTHOUSE: "localhost:29510"}, "must be an address such as http://host:29510; got 'localhost:29510'"),
        ([], {LIGHTHOUSE: "http://localhost"}, "must be an address"),
        ([], {LIGHTHOUSE: "http://localhost:port"}, "must be an address"),
        ([], {LIGHTHOUSE: "http://localhost:99999"}, "must be an address"),
        ([], {LIGHTHOUSE: "http://127.0.0.1:1"}, "no lighthouse answers at TORCHFT_LIGHTHOUSE=http://127.0.0.1:1: "),
        ([*RANKS], {LIGHTHOUSE: "http://a:1"}, "a worker of 2 ranks must be started by torchrun"),
        ([*RANKS], {LIGHTHOUSE: "http://a:1", "RANK": "0", "WORLD_SIZE": "3"}, "those of 3 ranks, but"),
        ([], {LIGHTHOUSE: "http://a:1", "RANK": "0"}, "those of no ranks, but"),
    ],
)
def test_a_worker_that_cannot_start_is_refused(
    words: list[str], environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_module, "LIGHTHOUSE_SECONDS", 0.1)
    with pytest.raises(ConfigError) as refusal:
        check_environment(config(*words), environment)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        ([], {LIGHTHOUSE: "http://node-1:29510", ATTEMPT: "1"}),
        (["--fault_tolerance.group_size", "1"], {}),
        (["--fault_tolerance.transport", "in_process"], {}),
        ([*RANKS], {LIGHTHOUSE: "http://a:1", ATTEMPT: "1", "RANK": "1", "WORLD_SIZE": "2"}),
    ],
)
def test_a_worker_that_can_start_is_not(words: list[str], environment: dict[str, str]) -> None:
    check_environment(config(*words), environment)


def test_a_worker_by_hand_finds_its_lighthouse() -> None:
    with socket.create_server(("127.0.0.1", 0)) as lighthouse:
        check_environment(config(), {LIGHTHOUSE: f"http://127.0.0.1:{lighthouse.getsockname()[1]}"})
