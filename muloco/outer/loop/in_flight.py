"""A fragment in flight: its pseudogradient is on its way to the other workers, and their mean on its way back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from muloco.outer.loop.background import Pending
from muloco.outer.loop.fragment import FragmentState, checksums
from muloco.outer.loop.outgoing import Outgoing
from muloco.outer.protocol.membership import Membership
from muloco.outer.protocol.outcome import CatchUp, Committed, Outcome
from muloco.outer.protocol.transaction import NonFinitePseudogradient
from muloco.outer.protocol.transport import Transport


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """The outcome of a round, not applied yet. See `muloco.outer.loop.sync.Sync` for the sums."""

    outcome: Outcome
    own_square: float = 0.0
    mean_square: float = 0.0
    product: float = 0.0


class InFlight:
    """A fragment in flight.

    Args:
        fragment: its state.
        index: its index.
        due: inner step after which its mean is applied.
        pending: the outcome of its round.
    """

    def __init__(self, fragment: FragmentState, index: int, *, due: int, pending: Pending[Arrived]):
        self.fragment = fragment
        self.index = index
        self.due = due
        self._pending = pending

    @classmethod
    def send(
        cls,
        fragments: Sequence[FragmentState],
        index: int,
        membership: Membership,
        transport: Transport,
        *,
        step: int,
        due: int,
    ) -> "InFlight":
        """Starts the round of the fragment at `index` from the parameters as they are now, after inner step `step`."""
        fragment = fragments[index]
        own = Outgoing(fragment, inner_steps_go_on=due > step)
        weight = fragment.window

        def digests() -> torch.Tensor:
            own.hold()  # what is sent and the digests are of the same moment
            return checksums([fragment])

        def work() -> Arrived:
            own_square = own.square
            try:
                outcome = membership.agree(
                    step,
                    index,
                    own.vector,
                    weight=weight,
                    finite=own.finite,
                    checksums=digests,
                    overwrite=own.overwrite,
                )
            except NonFinitePseudogradient as error:
                bad = own.not_finite()
                where = f"; on worker {membership.identity.worker} in {', '.join(bad)}" if bad else ""
                raise NonFinitePseudogradient(f"{error}{where}") from None
            match outcome:
                case Committed(mean=torch.Tensor() as mean):
                    mean_square = _square_of_mean(outcome, fragment, mean)
                    product = own.product(mean)
                    return Arrived(outcome=outcome, own_square=own_square, mean_square=mean_square, product=product)
                case CatchUp(committed=Committed(fragment=int() as theirs, mean=torch.Tensor() as mean) as committed):
                    _square_of_mean(committed, fragments[theirs], mean)
            return Arrived(outcome=outcome)

        concurrent = transport.concurrent and due > step
        pending = Pending(work, clock=transport.clock, concurrent=concurrent, device=transport.device)
        return cls(fragment, index, due=due, pending=pending)

    @classmethod
    def saved(
        cls, values: Mapping[str, Any], fragments: list[FragmentState], transport: Transport, *, delay: int
    ) -> "InFlight":
        """Returns the fragment of the result of `to_json`. Its mean is not initialized."""
        values = dict(values)
        committed = values.pop("agreement")
        fragment = fragments[committed["fragment"]]
        outcome = Committed.from_json(committed, mean=torch.empty(fragment.elements, device=transport.device))
        arrived = Arrived(outcome=outcome, **values)
        pending = Pending(lambda: arrived, clock=transport.clock, concurrent=False, device=transport.device)
        return cls(fragment, committed["fragment"], due=committed["step"] + delay, pending=pending)

    def to_json(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of it, without the mean. Waits for the round.

        Raises:
            RuntimeError: the others have gone on without this worker.
        """
        arrived = self.result()
        return {
            "agreement": _committed(arrived.outcome).to_json(),
            "own_square": arrived.own_square,
            "mean_square": arrived.mean_square,
            "product": arrived.product,
        }

    def mean(self) -> dict[str, torch.Tensor]:
        """Returns the mean by parameter name, in the memory that is in use. Waits for the round.

        Raises:
            RuntimeError: the others have gone on without this worker.
        """
        mean = _committed(self.result().outcome).mean
        assert mean is not None
        return self.fragment.views(mean)

    def result(self) -> Arrived:
        """Waits for the round and returns its outcome; an error of the round is raised here."""
        return self._pending.result()

    @property
    def seconds(self) -> float:
        """Duration of the round, once it is over."""
        return self._pending.seconds

    @property
    def failed(self) -> bool:
        """Whether the round is over and has raised an error."""
        return self._pending.failed

    def repeat(self) -> None:
        """Begins the round once more, after it has failed."""
        self._pending = self._pending.again()


def _committed(outcome: Outcome) -> Committed:
    if not isinstance(outcome, Committed):
        raise RuntimeError("the others have gone on without this worker, so its state cannot be saved")
    return outcome


def _square_of_mean(committed: Committed, fragment: FragmentState, mean: torch.Tensor) -> float:
    """Returns this rank's part of the sum of squares of a mean, see `FragmentState.product`.

    Raises:
        NonFinitePseudogradient: the mean holds NaN or Inf. All members have the same mean.
    """
    square = fragment.product(mean, mean)
    if math.isfinite(square):
        return square
    bad = [name for name, part in fragment.views(mean).items() if not torch.isfinite(part).all()]
    if bad:  # else the mean is finite, and only the sum of squares is too large
        raise NonFinitePseudogradient(
            f"sync after step {committed.step}: NaN or Inf in the mean of fragment {committed.fragment} over "
            f"workers {sorted(committed.weights)}, in {', '.join(bad)}, although each of them has sent a "
            "finite pseudogradient: the values are too large for their sum or for compression.kind"
        )
    return square
