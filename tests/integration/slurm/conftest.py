"""One SLURM for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import cluster, why_missing
from .jobs import Jobs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes run tests, one of them runs all that need the cluster."""
    for item in items:
        if "slurm" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("slurm"))


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands find the test cluster: partitions main and urgent, which pre-empts."""
    if (reason := why_missing()) is not None:
        pytest.skip(reason)
    with cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def jobs(slurm: dict[str, str], tmp_path: Path) -> Jobs:
    return Jobs(slurm, tmp_path)
