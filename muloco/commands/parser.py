"""The common part of the parsers of all commands."""

import argparse
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from muloco.errors import UserError
from muloco.settings.values import whole_number
from muloco.suggest import did_you_mean

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
Run = Callable[[argparse.Namespace], int]
"""Runs a command and returns its exit status. Besides its options, the namespace holds its `parser` and the remaining
`words` of the command line."""


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


def add_command(
    commands: Commands,
    name: str,
    run: Run,
    *,
    summary: str,
    description: str,
    usage: str,
    epilog: str | None = None,
    takes_fields: bool = False,
    add_help: bool = True,
    formatter: type[argparse.HelpFormatter] = argparse.HelpFormatter,
) -> Parser:
    """Adds a command.

    Args:
        commands: to add it to.
        name: as it is typed.
        run: what it does.
        summary, takes_fields: see `Parser`.
        description: one or more sentences for its help.
        usage: of the command line, in lines of at most 80 characters.
        epilog: the end of its help.
        add_help: whether it gets the usual -h.
        formatter: of its help.
    """
    parser = commands.add_parser(
        name,
        description=description,
        usage=usage,
        epilog=epilog,
        add_help=add_help,
        allow_abbrev=False,
        formatter_class=formatter,
    )
    parser.summary, parser.takes_fields = summary, takes_fields
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_verbose(parser: Parser) -> None:
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show details: the traceback of an error, what SLURM says"
    )


def add_checkpoint(parser: Parser, *, nargs: str | None = None) -> None:
    """Adds the argument CHECKPOINT, `checkpoint`."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs=nargs, type=not_empty, help="outputs/NAME or .../checkpoint/step-N"
    )


def add_step(parser) -> None:
    """Adds the option --step to the parser of a command on a checkpoint, or to a group of its options."""
    parser.add_argument(
        "--step",
        type=whole_number,
        metavar="N",
        help="step of a run folder's checkpoint (default: the newest complete one)",
    )


def not_empty(word: str) -> str:
    """The type of an argument that must not be empty."""
    if not word:
        raise argparse.ArgumentTypeError("must not be empty")
    return word


def list_commands(commands: Commands) -> str:
    """Returns the list of commands for a help text: a line for each, with its summary."""
    width = max(map(len, commands.choices))
    return "\n".join(f"  {name:{width}}  {parser.summary}" for name, parser in commands.choices.items())
