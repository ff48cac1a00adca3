"""Which signals ask a run to stop."""

import os
import signal

import pytest

from muloco.launch.stop_signals import StopSignals

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@pytest.mark.parametrize("number", ASKING)
def test_the_first_one_asks_and_the_second_one_insists(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.status(otherwise=signal.SIGINT) == 130
        os.kill(os.getpid(), number)
        assert stop.received == number and stop.status(otherwise=signal.SIGINT) == 128 + number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_what_is_ignored_from_outside_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
