"""What is printed is plain text in any encoding, and nobody has to read it to its end."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from muloco.commands.with_config import log_to

from .covering import only

CODE = """
import sys
from rich.table import Table
from muloco.console import open_console, replace_what_cannot_be_encoded
replace_what_cannot_be_encoded()
console = open_console(width=40, work_behind=True)
{what}
sys.stderr.write("done\\n")
"""


def run(what: str, *, behind: str = "| cat", **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code that prints to what follows the command."""
    command = f'"$0" -c "$1" {behind}; echo "status ${{PIPESTATUS[0]}}" >&2'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, CODE.format(what=what)],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        check=True,
    )


def test_brackets_are_text() -> None:
    table = "t = Table(title='[/x]'); t.add_row('[/bold][red]a'); console.print(t)"
    done = run("console.print('/data/[red]/x[/]', style='red'); " + table)
    assert "/data/[red]/x[/]\n" in done.stdout and "[/x]" in done.stdout and "[/bold][red]a" in done.stdout
    assert done.stderr == "done\nstatus 0\n"


def test_characters_that_the_encoding_does_not_have_are_replaced() -> None:
    done = run("console.print('Grüße')", PYTHONIOENCODING="ascii")
    assert done.stdout == "Gr??e\n" and done.stderr == "done\nstatus 0\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--training.steps", "abc"], "--training.steps"),
        (["--data.corpus", "/nowhere/Grüße.jsonl"], "/nowhere/Gr??e.jsonl"),
        (["--data.corpus", "/nowhere/[red]x[/b].jsonl"], "/nowhere/[red]x[/b].jsonl"),
    ],
)
def test_errors_are_readable_in_any_encoding(words: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "muloco", "train", "config/laptop/muloco.py", *words],
        capture_output=True,
        encoding="ascii",
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("muloco: ") and said in line


@pytest.mark.parametrize(
    ("behind", "reason", "shown"),
    [("| head -n 1", "Broken pipe", "a line of text\n"), ("> /dev/full", "No space left on device", "")],
)
def test_a_reader_that_goes_or_a_full_disk_ends_nothing(behind: str, reason: str, shown: str) -> None:
    done = run("for i in range(5000): console.print('a line of text')", behind=behind)
    assert done.stdout == shown
    assert done.stderr == f"muloco: <stdout> ends here ({reason}); the command goes on\ndone\nstatus 0\n"


def test_a_reader_that_goes_is_no_news_where_only_output_is_lost() -> None:
    printing = "console = open_console()\nfor i in range(5000): console.print('a line of text')"
    done = run(printing, behind="| head -n 1")
    assert (done.stdout, done.stderr) == ("a line of text\n", "done\nstatus 0\n")


def test_messages_while_training_have_the_time_of_workers_lines(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.root.handlers[:]
    logging.root.handlers.clear()
    try:
        log_to(Console(width=80))
        logging.getLogger("muloco.launch").warning("lost")
    finally:
        logging.root.handlers[:] = before
    assert re.match(r"\d\d:\d\d:\d\d WARNING +lost", capsys.readouterr().out)


@pytest.mark.parametrize("closed", only([">&-", "<&- >&- 2>&-"], [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]))
def test_a_closed_output_ends_nothing(closed: str, tmp_path: Path) -> None:
    """As at a daemon's start. No file that is opened later takes the number of a closed stream."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "from muloco.__main__ import main\n"
        "status = main()\n"
        "with open(sys.argv[0] + '.out', 'w') as file:\n"
        "    file.write(f'{status} {file.fileno() > 2} {os.get_inheritable(1)} {os.get_inheritable(2)}')\n"
    )
    words = [sys.executable, str(program), "train", "config/laptop/muloco.py", "--dry-run"]
    done = subprocess.run(["bash", "-c", f'"$@" {closed}', "bash", *words], capture_output=True, check=True)
    assert done.stderr == b""
    assert Path(f"{program}.out").read_text() == "0 True True True"
    version = subprocess.run(["bash", "-c", f'"$0" -m muloco --version {closed}', sys.executable])
    assert version.returncode == 0


SLOW = """
from muloco.console import BackgroundStream, LastingStream
stream = BackgroundStream(LastingStream(sys.stdout, work_behind=True))
for i in range(60_000): stream.write("a line of text, number %05d\\n" % i)
sys.stderr.write("the work is done\\n")
import time
deadline = time.monotonic() + 1500
while stream._taken - stream._written > 1000 and time.monotonic() < deadline: time.sleep(0.01)
stream.write("the end\\n")
stream.end()
"""


def test_nobody_waits_for_a_reader_that_does_not_read() -> None:
    """The reader begins to read only when the work is done."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE.format(what=SLOW)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stderr.readline() == "the work is done\n"
    lines = process.stdout.read().splitlines()
    assert process.wait() == 0
    gap = next(number for number, line in enumerate(lines) if line.startswith("["))
    assert lines[:gap] == [f"a line of text, number {number:05}" for number in range(gap)]
    assert lines[gap:] == [
        f"[{60_000 - gap} lines are missing here, because the output was not read in time]",
        "the end",
    ]


def test_a_reader_that_goes_is_no_trouble_in_the_background() -> None:
    code = (
        "from muloco.console import BackgroundStream, LastingStream\n"
        "stream = BackgroundStream(LastingStream(sys.stdout, work_behind=True))\n"
        "for i in range(20_000): stream.write('a line of text\\n')\n"
        "stream.end()"
    )
    done = run(code, behind="| head -n 1")
    assert done.stdout == "a line of text\n" and done.stderr.endswith("the command goes on\ndone\nstatus 0\n")


INTERRUPTED = """
import os, random, signal, threading
from muloco.console import BackgroundStream
class Nowhere:
    def write(self, text): pass
    def flush(self): pass
draw = random.Random(7)
for _ in range(60):
    stream = BackgroundStream(Nowhere())
    timer = threading.Timer(0.005 * draw.random(), os.kill, (os.getpid(), signal.SIGINT))
    try:
        try:
            timer.start()
            for _ in range(10**9): stream.write("a line of text\\n")
        finally:
            timer.join()
    except KeyboardInterrupt:
        pass
    stream.end()
"""


def test_a_ctrl_c_at_any_moment_leaves_an_end() -> None:
    """Also between taking a lock and noting that it is taken, if there were one."""
    done = run(INTERRUPTED, behind="")
    assert done.stderr.endswith("done\nstatus 0\n"), done.stderr
