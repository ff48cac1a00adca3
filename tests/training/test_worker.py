"""Workers that are threads of one process end together."""

import pytest

from muloco.outer.in_process import InProcessGroup
from muloco.settings.config import Config
from muloco.training.worker import take_turns


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
