"""The command line: the list of commands, and the exit statuses of their errors.

A user's mistake is a UserError, and ends with one line and status 2; with -v the traceback comes before it.
"""

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from muloco import __version__
from muloco.commands.parser import Commands, Parser, add_verbose, list_commands
from muloco.console import replace_what_cannot_be_encoded, silence
from muloco.errors import RunFailed, UserError, error_reason, exit_status, shown
from muloco.launch.lighthouse import LighthouseError
from muloco.suggest import did_you_mean

COMMANDS = (
    "train prepare models worker lighthouse sweep plan report analyze reproduce check_gpu eval export generate check"
)
"""The commands, in the order of the help: modules of `muloco.commands`."""
RENAMED = {"paper": "reproduce"}
"""Commands of earlier versions."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        exit status: 0; 1 after a failure that may pass; 2 where the command or the config cannot be used; 3 after a
        failure that would occur again; 75 where a run can be resumed; 130 after Ctrl-C.
    """
    replace_what_cannot_be_encoded()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(words)
    except UserError as error:
        _tell(error, str(error), words)
        return 2
    except (RunFailed, LighthouseError) as error:
        _tell(error, str(error), words)
        return exit_status(error)
    except BrokenPipeError:  # nobody reads stdout any more, as in `muloco train CONFIG --help | head`
        return 0
    except (OSError, UnicodeError) as error:  # a disk that is full, a path that no option names
        path = f"{shown(str(error.filename))}: " if isinstance(error, OSError) and error.filename is not None else ""
        _tell(error, f"{path}{error_reason(error)} (-v shows where)", words)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("muloco: stopped\n")
        return 130
    finally:
        _flush_output()


def build_parser() -> tuple[Parser, Commands]:
    """Returns the parser of the command line, and the parsers of the commands."""
    parser = Parser(
        prog="muloco",
        usage="muloco [-h] [--version] COMMAND ...",
        description="Train Llama models with MuLoCo: Muon inside, DiLoCo outside.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"muloco {__version__}")
    commands = parser.add_subparsers(prog="muloco", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    for name in COMMANDS.split():
        import_module(f"muloco.commands.{name}").add(commands)
    for added in commands.choices.values():
        add_verbose(added)
    parser.epilog = f"commands:\n{list_commands(commands)}\n\n`muloco COMMAND --help` explains a command."
    return parser, commands


def _run(words: list[str]) -> int:
    parser, commands = build_parser()
    if words and not words[0].startswith("-") and words[0] not in commands.choices:
        raise UserError(f"unknown command {words[0]}; {_hint(words[0], commands)}")
    args, rest = parser.parse_known_args(words)
    args.words = rest
    args.parser.check_words(rest)
    if not args.parser.takes_fields:  # the others log in ways of their own
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return args.run(args)


def _hint(name: str, commands: Commands) -> str:
    if name in RENAMED:
        return f"did you mean {RENAMED[name]}?"
    return did_you_mean(name, commands.choices, cutoff=0.5) or f"the commands are {', '.join(commands.choices)}"


def _tell(error: Exception, reason: str, words: list[str]) -> None:
    """Prints one line about an error; with -v, after its traceback."""
    if not {"-v", "--verbose"}.isdisjoint(words):
        traceback.print_exception(error)
    sys.stderr.write(f"muloco: {reason}\n")


def _flush_output() -> None:
    """Flushes the output here, since Python itself would fail on a closed pipe or a full disk when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
