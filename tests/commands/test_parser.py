"""The help texts of commands."""

import argparse

import pytest

from muloco.cli import build_parser
from muloco.commands.cluster_options import OPTIONS
from muloco.commands.parser import HelpFormatter
from muloco.sweeps.cluster import ClusterProfile, load_profile

COMMANDS = build_parser()[1].choices


@pytest.mark.parametrize("name", OPTIONS)
def test_the_metavar_of_an_option_about_the_cluster_says_whether_it_is_a_number(name: str) -> None:
    """A field of the profile is a number if it reads 3000 as one."""
    value, (metavar, _) = getattr(load_profile(None, **{name: "3000"}), name), OPTIONS[name]
    assert (metavar == "N") == isinstance(value, int)
    assert f" --{name.replace('_', '-')} {metavar} " in " ".join(COMMANDS["sweep"].format_help().split())


def test_options_about_the_cluster_may_have_underscores() -> None:
    args = COMMANDS["sweep"].parse_args(["file", "--gpus_per_node", "4", "--node-limit", "8"])
    assert (args.gpus_per_node, args.node_limit) == ("4", "8")
    assert "gpus_per_node" not in COMMANDS["sweep"].format_help()
    assert set(OPTIONS) <= set(ClusterProfile.__dataclass_fields__)


@pytest.mark.parametrize("width", [30, 40, 60])
def test_words_stay_whole_and_entries_of_a_list_have_lines_of_their_own(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    parser = argparse.ArgumentParser(usage="m", formatter_class=HelpFormatter, description="tasks of lm-eval " * 9)
    parser.add_argument("--tasks", metavar="A,B", help="tasks of lm-eval " * 9)
    parser.epilog = "parts:\n  small  kernels, codecs, lm-eval\n  large  training " + "runs " * 9
    text = parser.format_help()
    assert text.split().count("lm-eval") == 19 and all(len(line) <= width for line in text.splitlines())
    entries = text[text.index("parts:") :].splitlines()
    assert entries[1].startswith("  small  kernels")
    begin = next(number for number, line in enumerate(entries) if line.startswith("  large  training"))
    assert all(line.startswith(" " * 9) for line in entries[begin + 1 :])
