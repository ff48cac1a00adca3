"""Cores are counted by what this process may run on and by the processor time that it is granted."""

import os
from pathlib import Path

import pytest

from muloco.cores import usable_cores


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)


def files(root: Path, **contents: str) -> Path:
    for name, text in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"proc__self__cgroup": "0::/a/b\n"}
V1 = {"proc__self__cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/1\n0::/\n"}


@pytest.mark.parametrize(
    ("contents", "cores"),
    [
        ({}, 64),
        ({**V2, "sys__fs__cgroup__a__b__cpu.max": "max 100000\n"}, 64),
        ({**V2, "sys__fs__cgroup__a__b__cpu.max": "200000 100000\n"}, 2),
        ({**V2, "sys__fs__cgroup__a__b__cpu.max": "250000 100000\n"}, 2),
        ({**V2, "sys__fs__cgroup__a__b__cpu.max": "50000 100000\n"}, 1),
        ({**V2, "sys__fs__cgroup__a__b__cpu.max": "6400000 50000\n"}, 64),
        # the group around it grants less
        (
            {**V2, "sys__fs__cgroup__a__b__cpu.max": "800000 100000\n", "sys__fs__cgroup__a__cpu.max": "300000 100000"},
            3,
        ),
        # in a container that does not show the path of the host
        ({**V2, "sys__fs__cgroup__cpu.max": "400000 100000\n"}, 4),
        (
            {
                **V1,
                "sys__fs__cgroup__cpu,cpuacct__docker__1__cpu.cfs_quota_us": "500000\n",
                "sys__fs__cgroup__cpu,cpuacct__docker__1__cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
        (
            {
                **V1,
                "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "600000",
                "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000",
            },
            6,
        ),
        (
            {**V1, "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "-1", "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000"},
            64,
        ),
        ({**V2, "sys__fs__cgroup__a__b__cpu.max": "what is this"}, 64),
    ],
)
def test_cores(tmp_path: Path, contents: dict[str, str], cores: int) -> None:
    assert usable_cores(files(tmp_path, **contents)) == cores


def test_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert usable_cores(files(tmp_path, **V2, **{"sys__fs__cgroup__a__b__cpu.max": "200000 100000\n"})) == 1


def test_on_this_machine() -> None:
    assert usable_cores() >= 1
