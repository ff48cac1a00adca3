"""Transports that fail at a chosen point of a chosen round."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from muloco.outer import Round, Transport, TransportError


class Died(Exception):
    """What a worker that dies raises in its own thread, so that nothing of it runs on."""


class Faulty:
    """A transport whose first round at inner step `step` fails.

    Args:
        inner: carries the rounds.
        step: inner step of the sync.
        point: `exchange N` (before the round's exchange number N, from 0), `vote` (before this worker votes), `voted`
            (its vote has gone out to all, and it has heard theirs).
        act: what happens there; a worker that loses contact before it votes, votes no.
    """

    def __init__(self, inner: Transport, step: int, point: str, act: Callable[[], None]):
        self._inner, self._step, self._point, self._act = inner, step, point, act
        self.exchanges: list[int] = []
        """How many each round had."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def open(self, step: int) -> Round:
        this_round = self._inner.open(step)
        point, act = self._point if step == self._step else "never", self._act
        if step == self._step:
            self._point = "never"
        self.exchanges.append(0)
        return _FaultyRound(self, this_round, point, act)


class _FaultyRound:
    def __init__(self, transport: Faulty, inner: Round, point: str, act: Callable[[], None]):
        self._transport, self._inner, self._point, self._act = transport, inner, point, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def exchange(self, outgoing: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        if self._point == f"exchange {self._transport.exchanges[-1]}":
            self._act()
        self._transport.exchanges[-1] += 1
        return self._inner.exchange(outgoing, sizes)

    def vote(self, ok: bool) -> bool:
        if self._point == "vote":
            try:
                self._act()
            except TransportError:
                ok = False
        if self._point != "voted":
            return self._inner.vote(ok)
        wire = getattr(self._transport, "wire", None)
        if wire is None:  # in process
            answer = self._inner.vote(ok)
            self._act()
            return answer

        def send_and_act(send: Callable[..., None], *args) -> None:
            send(*args)
            self._act()

        at_the_votes(self._transport, self._inner, send_and_act)
        return self._inner.vote(ok)


def at_the_votes(transport: Any, this_round: Any, act: Callable[..., None]) -> None:
    """In place of the swap of the votes over torchft, calls `act` with that swap and its arguments."""
    exchange_votes = this_round._exchange_votes

    def exchange(name: str) -> None:
        swap = transport.wire.swap

        def instead(*args) -> None:
            transport.wire.swap = swap
            act(swap, *args)

        transport.wire.swap = instead
        exchange_votes(name)

    this_round._exchange_votes = exchange


def die_in_process() -> None:
    raise Died


def die_at(transport) -> Callable[[], None]:
    """Ends a worker at a lighthouse as its process' end would: no heartbeat, no connection, no answer."""

    def act() -> None:
        transport.wire.close()
        raise Died

    return act


def cut_at(transport: Transport) -> Callable[[], None]:
    """Breaks a worker's connections; it notices when it uses them."""
    return transport.cut


def lose_contact() -> None:
    """The worker lives, its connection has broken; within a vote it cannot know what the others have decided."""
    raise TransportError("the test has broken the connection")


def lose_contact_in_vote() -> None:
    raise ConnectionError("the test has broken the connection")
