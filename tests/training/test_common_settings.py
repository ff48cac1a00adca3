"""Config fields in which the workers of a run may not differ."""

import json

import pytest

from muloco.resolve import resolve
from muloco.settings.fields import common_settings
from muloco.settings.load import load_config


def settings(*words: str) -> dict:
    return common_settings(resolve(load_config("config/laptop/muloco.py", list(words))))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("compression.kind", "bf16"),
        ("compression.skip_norms", "False"),
        ("outer_optimizer.lr", "0.3"),
        ("training.steps", "90"),
        ("model.flavor", "small"),
    ],
)
def test_what_decides_payloads_or_outer_steps(field: str, value: str) -> None:
    before, after = settings(), settings(f"--{field}", value)
    assert before[field] != after[field] and before.keys() == after.keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("outer_optimizer.offload", "True"),
        ("fault_tolerance.replica_id", "1"),
        ("fault_tolerance.exchange_timeout_seconds", "7"),
        ("training.local_batch_size", "4"),
        ("checkpoint.interval", "60"),
    ],
)
def test_what_workers_may_have_each_their_own_way(field: str, value: str) -> None:
    assert settings() == settings(f"--{field}", value)


def test_settings_of_other_codecs_are_not_sent() -> None:
    assert settings("--compression.kind", "powersgd", "--compression.rank", "2")["compression.rank"] == 2
    assert "compression.rank" not in settings() and "compression.bits" not in settings()


def test_they_travel_in_a_header() -> None:
    told = settings("--compression.kind", "topk")
    assert json.loads(json.dumps(told)) == told
    assert all(type(value) in (str, int, float, bool) for value in told.values())
