"""One SLURM for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import cluster, why_missing
from .jobs import Jobs


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
