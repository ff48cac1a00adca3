"""docs/fault-tolerance.md: its command, its defaults, and the recovery that it tells."""

import json
import re
import shlex
from dataclasses import fields

from muloco.resolve import resolve
from muloco.settings.fault_tolerance import FaultTolerance
from muloco.settings.load import CHECKOUT, load_config

TEXT = (CHECKOUT / "docs" / "fault-tolerance.md").read_text()


def test_its_command_can_run() -> None:
    (block,) = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.M | re.S)
    words = shlex.split(block)
    assert words[:2] == ["muloco", "train"]
    assert resolve(load_config(words[2], words[3:])).chaos.interval_seconds == 30


def test_every_timeout_is_told_with_its_default() -> None:
    told = dict(re.findall(r"^\| `(\w+_timeout_seconds)` \| (\d+) \|", TEXT, re.M))
    defaults = FaultTolerance()
    timeouts = [field.name for field in fields(FaultTolerance) if field.name.endswith("_timeout_seconds")]
    assert {name: str(getattr(defaults, name)) for name in timeouts} == told
    assert f"`--fault_tolerance.restarts` ({defaults.restarts})" in TEXT
    assert f"`--fault_tolerance.resumes` ({defaults.resumes})" in TEXT


def test_the_recovery_is_the_one_that_was_recorded() -> None:
    lines = [json.loads(line) for line in (CHECKOUT / "results/storm/recovery.jsonl").read_text().splitlines()]
    killed = lines[0]
    assert (killed["event"], killed["kind"], killed["phase"], killed["worker"]) == ("fault", "kill", "gather", 3)
    syncs = [line for line in lines if line["event"] == "sync"]
    joins = [line for line in lines if line["event"] == "join"]
    common = next(line for line in syncs if "3" in line["weights"])
    moments = [killed, syncs[0], next(m for m in syncs if m["step"] == 20), *joins, common]
    told = re.findall(r"^\| (\d+\.\d)(?: \.\.\. [\d.]+)? \|", TEXT, re.M)
    assert told == [f"{moment['time'] - killed['time']:.1f}" for moment in moments]
    assert len({line["digest"] for line in syncs if line["step"] == common["step"]}) == 1
