"""The outcomes of a round: it has committed, or this worker has to catch up, or it was left behind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

_FOR_EARLIER_VERSIONS: dict[str, Any] = {"mean": None, "behind": [], "donor": None, "donates": False, "leaving": False}
"""Entries that earlier versions expect in the JSON of a round."""


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A round that its leaders have committed, and everything that they share from then on."""

    step: int
    """Inner step after which the fragment was sent."""
    fragment: int | None
    """Index of the fragment; None if the workers met before their first inner step and sent nothing."""
    mean: torch.Tensor | None
    """Mean pseudogradient, an fp32 vector of the fragment; None if the leaders sent nothing."""
    weights: dict[int, int]
    """Inner steps that each leader contributed, by worker."""
    data_positions: dict[int, str]
    """The leaders' positions in their data, by worker."""
    behind: tuple[int, ...] = ()
    """Workers that missed a round and take over the state of a leader."""
    donates: bool = False
    """Whether one of them takes over this worker's state."""
    name: str
    """Name of the round."""
    commit_hash: str
    """Hash of all rounds that the leaders have committed, this one included."""
    bytes_sent: int
    """Bytes that this rank sent to other workers, failed attempts included."""
    attempts: int
    """Number of attempts that the round took."""
    stops: bool = False
    """Whether all members stop here, because one has been asked to."""

    def to_json(self) -> dict[str, Any]:
        """Returns the values that a checkpoint keeps for a round whose mean is not applied yet, without the mean. The
        keys are those of earlier versions."""
        return _FOR_EARLIER_VERSIONS | {
            "step": self.step,
            "fragment": self.fragment,
            "weights": list(self.weights.items()),
            "shares": list(self.data_positions.items()),
            "name": self.name,
            "history": self.commit_hash,
            "bytes_sent": self.bytes_sent,
            "attempts": self.attempts,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, mean: torch.Tensor) -> "Committed":
        """Returns the round with these values of `to_json` and this mean."""
        return cls(
            step=values["step"],
            fragment=values["fragment"],
            mean=mean,
            weights=dict(values["weights"]),
            data_positions=dict(values["shares"]),
            name=values["name"],
            commit_hash=values["history"],
            bytes_sent=values["bytes_sent"],
            attempts=values["attempts"],
        )


@dataclass(frozen=True, kw_only=True)
class CatchUp:
    """This worker helped to carry a round but was not among its leaders: it has to take over the state of one."""

    donor: int
    """Rank of that leader in the round."""
    committed: Committed
    """The round."""


@dataclass(frozen=True)
class LeftBehind:
    """The others have gone on without this worker, which has not found them yet."""


Outcome = Committed | CatchUp | LeftBehind
