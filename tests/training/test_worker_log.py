"""What a worker's log holds, in a process of its own, as it sets up all loggers."""

import subprocess
import sys

import pytest

MESSAGES = """
import logging, threading
from muloco.training.worker_log import set_up_log, thread_name
set_up_log(rank={rank})
for name in ("muloco.training", "", "torchft.manager"):
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(name), level)("%s %s", name.split(".")[0] or "torchtitan", level)
logging.getLogger("muloco.optim").info("parameters by rule")
thread = threading.Thread(target=lambda: logging.getLogger("muloco").info("in turn"), name=thread_name(3))
thread.start()
thread.join()
"""


def said(monkeypatch: pytest.MonkeyPatch, *, rank: int = 0, level: str | None = None) -> list[str]:
    """The messages, without time and level."""
    monkeypatch.delenv("MULOCO_LOG", raising=False)
    if level is not None:
        monkeypatch.setenv("MULOCO_LOG", level)
    program = [sys.executable, "-c", MESSAGES.format(rank=rank)]
    output = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    return [line.split(" ", 2)[2] for line in output.splitlines()]


ATTENTION = ["muloco warning", "muloco error", "torchtitan warning", "torchtitan error", "torchft error"]


def test_its_own_messages_and_what_needs_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch) == ["muloco info", *ATTENTION, "worker 3: in turn"]


def test_other_ranks_say_only_what_needs_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, rank=1) == ATTENTION


def test_all_of_it_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [
        f"{name} {level}" for name in ("muloco", "torchtitan", "torchft") for level in ("info", "warning", "error")
    ]
    assert said(monkeypatch, level="INFO") == [*every, "parameters by rule", "worker 3: in turn"]


def test_a_level_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        said(monkeypatch, level="loud")
    assert "MULOCO_LOG in the environment must be one of DEBUG, INFO, WARNING, ERROR; got 'loud'" in error.value.stderr
