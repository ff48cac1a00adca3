"""Commands that messages and help texts tell a user to type: they exist, and so do their options."""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

from muloco.cli import build_parser
from muloco.settings.config import Config
from muloco.settings.fields import flatten

from .test_torchtitan_gate import PACKAGE

COMMAND = re.compile(r"\bmuloco (?!(?:is|are|has|reads|with)\b)((?:analyze )?[a-z]+(?:-[a-z]+)*)\b([^`\n;]*)")
"""`muloco` and a word that is no verb about it."""
PARSER = build_parser()[0]
FIELDS = {f"--{name}" for name in flatten(Config())}


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Every literal text in a file, with its line; what is filled in stands as X. Docstrings are left out."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    docstrings = {
        id(node.body[0].value)
        for node in nodes
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(p.value if isinstance(p, ast.Constant) else "X" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | inside:
            yield node.lineno, node.value


def printed() -> list[tuple[str, str, str]]:
    """Where each command is printed, the command, and the rest of it."""
    return [
        (f"{file.relative_to(PACKAGE)}:{line}", *found.groups())
        for file in sorted(PACKAGE.rglob("*.py"))
        for line, text in texts(file)
        for found in COMMAND.finditer(text)
    ]


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


def mistake(command: str, rest: str) -> str | None:
    """What of a command does not exist."""
    parser = PARSER
    for word in command.split():
        if word not in subparsers(parser):
            return f"no command {command}"
        parser = subparsers(parser)[word]
    known = {option for action in parser._actions for option in action.option_strings} | FIELDS
    named = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*[a-z]", rest)) - {"--section.field"}
    return f"no option {named - known} of {command}" if named - known else None


def test_commands_in_messages_exist() -> None:
    found = printed()
    assert len(found) > 20 and {"train", "sweep", "eval"} <= {command for _, command, _ in found}
    assert [f"{where}: {wrong}" for where, *words in found if (wrong := mistake(*words))] == []


def test_a_mistake_is_found() -> None:
    assert mistake("trains", "") == "no command trains"
    assert mistake("train", " CONFIG --resum") == "no option {'--resum'} of train"
