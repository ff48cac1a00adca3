"""The common part of the parsers of all commands."""

import argparse
import re
import textwrap
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from muloco.errors import UserError
from muloco.settings.values import option_type
from muloco.suggest import did_you_mean

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
Run = Callable[[argparse.Namespace], int]
"""Runs a command and returns its exit status; raises UserError if an option or a file cannot be used. Besides its
options, the namespace holds its `parser` and the remaining `words` of the command line."""


class Parser(argparse.ArgumentParser):
    """The parser of a command. Its errors are UserErrors.

    Attributes:
        summary: a few words for the list of commands.
        takes_fields: whether the command takes `--section.field value` words for the config.
    """

    summary = ""
    takes_fields = False

    def error(self, message: str) -> NoReturn:
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            raise self.missing(missing.split(", ")[0])
        reason = message.removeprefix("argument ").replace(": must ", " must ", 1)
        raise UserError(f"{reason}; try `{self.prog} --help`")

    def missing(self, argument: str) -> UserError:
        """Returns the error that says that an argument is missing."""
        return UserError(f"{self.prog} needs a {argument}; try `{self.prog} --help`")

    def options(self) -> list[str]:
        """Returns the names of all options, such as `-h` and `--help`."""
        return [name for action in self._actions for name in action.option_strings]

    def check_words(self, words: list[str]) -> None:
        """Raises UserError for a word that cannot be meant: of a command that takes fields, an option that resembles
        one of its own and is not a field; of any other command, each word."""
        if not self.takes_fields:
            if words:
                hint = did_you_mean(words[0].split("=")[0], self.options(), cutoff=0.5) or f"try `{self.prog} --help`"
                raise UserError(f"unknown option {words[0]}; {hint}")
            return
        own = [name for name in self.options() if name.startswith("--")]
        for option in (word.split("=", 1)[0] for word in words if word.startswith("--")):
            hint = did_you_mean(option.replace("_", "-"), own, cutoff=0.8)
            if hint and "." not in option and option not in own:
                raise UserError(f"unknown option {option}; {hint}")


class HelpFormatter(argparse.HelpFormatter):
    """Breaks lines between words only, and keeps the entries of a list, whose lines begin with blanks."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for entry in re.split(r"\n(?= )", text):
            name, rest = re.fullmatch(r"( +\S+ +)?(.*)", entry, re.DOTALL).groups("")  # type: ignore[union-attr]
            lines += textwrap.wrap(
                " ".join(rest.split()),
                width,
                initial_indent=name,
                subsequent_indent=" " * len(name),
                break_on_hyphens=False,
            )
        return "\n".join(lines)


def add_command(
    commands: Commands, name: str, run: Run, *, summary: str, usage: str, description: str, add_help: bool = True
) -> Parser:
    """Adds a command.

    Args:
        summary: see `Parser`.
        usage: what follows the name on the command line, in one line or more.
        description: one or more sentences for its help.
        add_help: whether it gets the usual -h.
    """
    parser = commands.add_parser(
        name, description=description, add_help=add_help, allow_abbrev=False, formatter_class=HelpFormatter
    )
    parser.usage = f"{parser.prog} {usage}".replace("\n", "\n" + " " * len(f"usage: {parser.prog} "))
    parser.summary = summary
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_verbose(parser: Parser) -> None:
    meaning = "show details: the traceback of an error, SLURM's messages"
    parser.add_argument("-v", "--verbose", action="store_true", help=meaning)


def add_checkpoint(parser: Parser, *, nargs: str | None = None) -> None:
    """Adds the argument CHECKPOINT, `checkpoint`."""
    meaning = "outputs/NAME or .../checkpoint/step-N"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs=nargs, type=not_empty, help=meaning)


def add_step(parser) -> None:
    """Adds the option --step to the parser of a command on a checkpoint, or to a group of its options."""
    meaning = "step of a run folder's checkpoint (default: the newest complete one)"
    parser.add_argument("--step", type=option_type(int), metavar="N", help=meaning)


def not_empty(word: str) -> str:
    """The type of an argument that must not be empty."""
    if not word:
        raise argparse.ArgumentTypeError("must not be empty")
    return word


def add_precision(parser: Parser) -> None:
    names, meaning = ("float32", "bfloat16"), "data type of the weights (default: float32)"
    parser.add_argument("--precision", choices=names, default=names[0], help=meaning)


def list_commands(commands: Commands) -> str:
    """Returns the list of commands for a help text: a line for each, with its summary."""
    width = max(map(len, commands.choices))
    return "\n".join(f"  {name:{width}}  {parser.summary}" for name, parser in commands.choices.items())
