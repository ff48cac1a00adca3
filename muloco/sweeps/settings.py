"""The settings of a sweep, which are kept between commands: cluster, options, and fields for all its jobs."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from muloco.sweeps.cluster import ClusterProfile, load_profile

PROFILE = "cluster.toml"
"""The cluster profile next to a sweep, which is used where none is named."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    profile: str | None = None
    """File of the cluster profile."""
    options: dict[str, str] = field(default_factory=dict)
    """Fields of the profile that win over the file's."""
    overrides: dict[str, list[str]] = field(default_factory=dict)
    """Words by option, for all jobs: `{"--data.corpus": ["books.jsonl"]}`."""

    def updated(self, newer: "Settings") -> "Settings":
        """Returns these settings, replaced by those that `newer` has."""
        return Settings(
            profile=newer.profile or self.profile,
            options=self.options | newer.options,
            overrides=self.overrides | newer.overrides,
        )

    def with_profile_beside(self, file: Path) -> "Settings":
        """These, with the cluster profile next to the sweep in `file` if there is one and they name none."""
        profile = file.parent / PROFILE
        return Settings(profile=str(profile)).updated(self) if profile.is_file() else self

    @property
    def words(self) -> list[str]:
        return [word for option, values in self.overrides.items() for word in (option, *values)]

    def cluster(self, beside: Path) -> ClusterProfile:
        """Returns the cluster profile, with its log folder relative to `beside`. Raises UserError if it cannot be
        used."""
        profile = load_profile(Path(self.profile) if self.profile else None, **self.options)
        return dataclasses.replace(profile, log_folder=str(beside / profile.log_folder))


def by_option(words: Sequence[str]) -> dict[str, list[str]]:
    """Words of a command line by the option that they belong to."""
    values_of: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if word.startswith("--"):
            option, *value = word.split("=", 1)
            values = values_of[option] = value
        else:
            values.append(word)
    return values_of
