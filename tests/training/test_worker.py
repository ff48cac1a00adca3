"""Workers that are threads of one process end together."""

import socket

import pytest

from muloco.outer.in_process import InProcessGroup
from muloco.training import worker as worker_module
from muloco.training.config import Config
from muloco.training.load import ConfigError
from muloco.training.worker import check_environment, take_turns


@pytest.mark.parametrize("error", [ValueError("this share has no documents"), SystemExit(3)])
def test_the_first_failure_of_a_worker_ends_all_of_them(error: BaseException) -> None:
    config, group, rounds = Config(), InProcessGroup(3), []

    def train(own: Config) -> None:
        worker = own.fault_tolerance.replica_id
        transport = group.transport(worker)
        for step in range(1, 100):
            transport.open(step).vote(True)
            rounds.append((worker, step))
            if (worker, step) == (1, 2):
                raise error

    with pytest.raises(type(error), match=str(error)):
        take_turns(config, group, train)
    assert max(step for _, step in rounds) == 2


def test_a_worker_that_fails_before_its_first_round_ends_those_that_wait_for_it() -> None:
    group = InProcessGroup(3)

    def train(own: Config) -> None:
        if own.fault_tolerance.replica_id == 2:
            raise ArithmeticError("fails")
        group.transport(own.fault_tolerance.replica_id).open(0)
        raise AssertionError("nobody meets")

    with pytest.raises(ArithmeticError, match="fails"):
        take_turns(Config(), group, train)


@pytest.mark.parametrize(
    ("workers", "ranks", "environment", "message"),
    [
        (2, 1, {}, "2 workers need a lighthouse: set TORCHFT_LIGHTHOUSE=http://host:port, or start them all with"),
        (2, 1, {"TORCHFT_LIGHTHOUSE": "host:29510"}, "set TORCHFT_LIGHTHOUSE=http://host:port, not host:29510, or"),
        (2, 1, {"TORCHFT_LIGHTHOUSE": "http://host"}, "not http://host, or"),
        (
            2,
            1,
            {"TORCHFT_LIGHTHOUSE": "http://127.0.0.1:1"},
            "no lighthouse answers at .*http://127.0.0.1:1: .*refused",
        ),
        (1, 4, {}, "a worker of 4 ranks must be started by torchrun: torchrun --standalone --nproc-per-node 4"),
        (1, 1, {"RANK": "1", "WORLD_SIZE": "2"}, "those of 2 ranks, but the config's parallelism makes a worker of 1;"),
        (1, 1, {"RANK": "1"}, "those of no ranks, but"),
    ],
)
def test_a_worker_by_hand_that_cannot_start_says_why(
    workers: int, ranks: int, environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "LIGHTHOUSE_SECONDS", 0.1)
    config = Config()
    config.fault_tolerance.group_size, config.parallelism.data_parallel_shard_degree = workers, ranks
    with pytest.raises(ConfigError, match=message):
        check_environment(config, environment)


@pytest.mark.parametrize("transport", ["torchft", "in_process"])
def test_a_worker_that_can_start(transport: str) -> None:
    config = Config()
    config.fault_tolerance.group_size, config.fault_tolerance.transport = 2, transport
    with socket.create_server(("127.0.0.1", 0)) as lighthouse:
        there = {"TORCHFT_LIGHTHOUSE": f"http://127.0.0.1:{lighthouse.getsockname()[1]}"}
        check_environment(config, there if transport == "torchft" else {})
        check_environment(config, {**there, "RANK": "0", "WORLD_SIZE": "1"})
    check_environment(config, {"TORCHFT_LIGHTHOUSE": "http://127.0.0.1:1", "MULOCO_ATTEMPT": "1"})
