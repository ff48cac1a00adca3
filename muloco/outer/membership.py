"""One worker among the others: what it tells them, what it remembers of them, and how it joins again."""

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Protocol

import torch

from muloco.failpoints import hit
from muloco.outer.channel import Channel
from muloco.outer.header import NOTHING, Header
from muloco.outer.outgoing import Outgoing
from muloco.outer.terms import Terms
from muloco.outer.transaction import NOBODY, Agreement, Crowd, StateLost, agree, assemble
from muloco.outer.transport import Transport, TransportError

logger = logging.getLogger(__name__)


class StateTransfer(Protocol):
    """What lets a worker that was away take over the state of one that was not."""

    def pack(self) -> bytes:
        """All that a worker needs to go on from here, but its position in the data."""
        ...

    def unpack(self, state: bytes) -> None:
        """Goes on from a packed state, and from this worker's own position in the data (`Membership.shares`)."""
        ...


class Membership:
    """What a worker and the others know of each other.

    Args:
        transport: meets them.
        crowd: who they are.
        terms: what has to be the same on all of them.
        channel_of: how a fragment travels, by index.
        share: says where this worker is in its share of the data.
        transfer: lets workers that were away join again; None: they cannot.
    """

    def __init__(
        self,
        transport: Transport,
        crowd: Crowd,
        *,
        terms: Terms,
        channel_of: Callable[[int], Channel],
        share: Callable[[], str],
        transfer: StateTransfer | None,
    ):
        self.transport = transport
        self.crowd = crowd
        self.terms = terms
        self.shares: dict[int, str] = {}
        """Each worker's position in its share of the data, as of the last round that it was in."""
        self.members = list(range(crowd.workers))
        """Workers that took part in the last round; before the first one, all."""
        self.history = ""
        """Of the rounds that this worker was in: equal on all that were in the same ones."""
        self.wants_to_leave = False
        """Whether this worker asks all to stop at the next sync."""
        self.leaving = False
        """Whether they have agreed to stop here."""
        self._channel_of = channel_of
        self._share = share
        self._transfer = transfer

    def start(self, step: int, checksum: torch.Tensor, *, left_behind: bool = False) -> None:
        """Meets the others before the first inner step (or the first after `step`): all of them, to compare their
        anchors by `checksum`; or, where the run goes on already, those at their next sync, to take over their state.
        Who was `left_behind` can only do that.

        Raises:
            TransportError: too few of them came.
            AnchorMismatch: they do not start alike.
            StateLost: the run has come further than they.
            ForeignRun: this worker does not belong to the run.
        """
        own = self._header(step, NOTHING, weight=0, finite=True, checksum=checksum)
        while True:
            reached = self.crowd.reached()  # before they meet: what comes later, they do together
            agreement = assemble(self.transport, own, self._channel_of, self.crowd)
            if agreement.donor is None:
                if self.transport.any_rank(left_behind or reached > step):
                    raise StateLost(
                        f"run {self.crowd.run!r} has come to step {reached}, but the workers that are left begin after "
                        f"step {step}"
                    )
                self.commit(agreement)
                return
            if self.take_over(agreement):
                return

    def agree(
        self,
        step: int,
        fragment: int,
        own: Outgoing,
        *,
        weight: int,
        checksum: torch.Tensor,
    ) -> Agreement:
        """Returns the mean of a fragment's pseudogradients, sent after `step`; see `muloco.outer.transaction.agree`."""
        header = self._header(step, fragment, weight=weight, finite=own.finite, checksum=checksum)

        def passed(members: Collection[int]) -> bool:
            """Asks only if a member of the last round is missing; otherwise nobody can have gone on without this."""
            return not set(self.members) <= set(members) and self.crowd.passed(step, fragment)

        agreement = agree(
            *(self.transport, header, own.vector, self._channel_of, passed),
            overwrite=own.overwrite,
            patience=self.crowd.patience,
        )
        if agreement.donor is None:
            self.crowd.committed(agreement.step, agreement.fragment, agreement.weights)
        return agreement

    def commit(self, agreement: Agreement) -> None:
        """Keeps what all members know now, and hands this worker's state to those who were away."""
        self.leaving |= agreement.leaving
        self.history = agreement.history
        self.shares |= agreement.shares
        if 2 * len(agreement.weights) < self.crowd.workers and sorted(agreement.weights) != self.members:
            logger.warning(
                "fewer than half of the %d workers take part from step %d on: %s",
                *(self.crowd.workers, agreement.step, ", ".join(map(str, sorted(agreement.weights)))),
            )
        self.members = sorted(agreement.weights)
        if agreement.donates:
            if self._transfer is None:
                raise RuntimeError(f"workers {agreement.behind} want to join again, for which nothing is provided")
            logger.info("workers %s join again", ", ".join(map(str, agreement.behind)))
            self.transport.offer(agreement.name, self._transfer.pack())

    def part(self, transport: Transport) -> None:
        """Takes this worker out of the run's rounds: from now on it is alone, in rounds over `transport`. These are not
        written to the commit log, because the run has not gone on by them."""
        transport.any_rank = self.transport.any_rank  # type: ignore[method-assign] # its ranks still act together
        self.transport = transport
        self.crowd = replace(self.crowd, least=1, late_after=0.0, committed=lambda step, fragment, members: None)

    def take_over(self, agreement: Agreement) -> bool:
        """Goes on from a leader's state; False: the leader is gone, or there is none.

        Where all stop, there is nothing to go on with: this worker has no part in what they leave behind.
        """
        if agreement.leaving:
            self.leaving, self.members = True, []
            return True
        if self._transfer is None:
            raise RuntimeError("this worker is behind the others, and nothing is provided for joining again")
        assert agreement.donor is not None
        if agreement.donor == NOBODY:
            return False
        hit("join")
        state = None
        try:
            state = self.transport.fetch(agreement.name, agreement.donor)
        except TransportError as error:
            logger.warning("%s; meeting the others again", error)
        if self.transport.any_rank(state is None):  # one rank alone would wait for the others of this worker for ever
            return False
        assert state is not None
        self._transfer.unpack(state)
        return True

    def publish(self, name: str, part: bytes) -> None:
        """Offers this worker's part of shared work to the others; see `Transport.publish`."""
        self.transport.publish(name, part)

    def collect(self, name: str, patience: float) -> list[bytes]:
        """Returns the parts that the other members of the last round have published under a name; see
        `Transport.collect`."""
        others = [worker for worker in self.members if worker != self.crowd.worker]
        return list(self.transport.collect(name, others, patience).values())

    def state(self) -> dict[str, Any]:
        """JSON values."""
        return {"history": self.history, "shares": list(self.shares.items()), "members": self.members}

    def load_state(self, state: dict[str, Any]) -> None:
        self.history, self.members = state["history"], state["members"]
        self.shares = dict(state["shares"])

    def _header(self, step: int, fragment: int, *, weight: int, finite: bool, checksum: torch.Tensor) -> Header:
        return Header(
            run=self.crowd.run,
            worker=self.crowd.worker,
            terms=self.terms,
            step=step,
            fragment=fragment,
            weight=weight,
            finite=finite,
            digest=int(checksum),
            share=self._share(),
            history=self.history,
            leaving=self.wants_to_leave,
        )
