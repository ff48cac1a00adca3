"""Signs of life: given where they are wanted, at each change and now and then, and found in any output."""

import subprocess
import sys

from muloco.training.pulse import SECONDS, STACKS, WANTED, Pulse, Sign, sign_in


def test_signs_are_given_at_each_change_and_not_too_often() -> None:
    now, written = 0.0, []
    pulse = Pulse({WANTED: "1"}, written.append, lambda: now)
    for step, state in enumerate(("training", "training", "syncing", "training")):
        pulse.beat(step, state)
    now += SECONDS
    pulse.beat(4, "training")
    found = [sign_in(line.decode().rstrip("\n")) for line in written]
    assert found == [("", Sign(*sign)) for sign in ((0, "training"), (2, "syncing"), (3, "training"), (4, "training"))]


def test_a_worker_that_was_started_by_hand_gives_none() -> None:
    written: list[bytes] = []
    Pulse({}, written.append).beat(1, "training")
    assert written == []


def test_output_that_cannot_be_written_is_nothing_to_it() -> None:
    def refuse(data: bytes) -> None:
        raise BrokenPipeError

    Pulse({WANTED: "1"}, refuse).beat(1, "training")


def test_other_lines_stay_as_they_are() -> None:
    assert sign_in("step 3 of 4") == ("step 3 of 4", None)
    assert sign_in("50 %|###\x1epulse 7 loading a checkpoint") == ("50 %|###", Sign(7, "loading a checkpoint"))


def test_stacks_are_shown_whatever_the_process_does() -> None:
    code = (
        "import signal, threading, time\n"
        "from muloco.training.pulse import show_stacks_on_request\n"
        "def stands_here():\n    print('up', flush=True)\n    time.sleep(600)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})\n"
        "show_stacks_on_request()\n"
        "threading.Thread(target=stands_here, daemon=True).start()\n"
        "signal.sigwait({signal.SIGALRM})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    process.send_signal(STACKS)
    shown = iter(process.stdout.readline, b"")
    assert any(b"in stands_here" in line for line in shown), "the stacks of all threads, and it lives on"
    assert process.poll() is None
    process.kill()
    process.wait()
