"""One sync as a transaction: all surviving members end with the same mean, or nobody has it and they try again."""

import contextlib
import hashlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace

import torch

from muloco.outer.compression import Wire
from muloco.outer.digest import as_hex
from muloco.outer.exchange import average, gather_bytes
from muloco.outer.transport import Round, Transport, TransportError
from muloco.phases import reach

logger = logging.getLogger(__name__)

ATTEMPTS = 10
"""Rounds that may fail in a row before the worker gives up."""
NOTHING = -1
"""In a header: the member sends no fragment; it has come to meet the others before its first inner step."""
NOBODY = -1
"""As a donor: the others have gone on without this worker, and it has to look for them."""


class AnchorMismatch(RuntimeError):
    """Workers hold different anchors: something has corrupted the state, or they did not start alike."""


class ForeignRun(RuntimeError):
    """A worker does not belong to those that meet at its lighthouse."""


class StateLost(RuntimeError):
    """A run has come further than any worker that is left: to begin anew would throw away what it has learned."""


class NonFinitePseudogradient(RuntimeError):
    """A worker's pseudogradient holds NaN or Inf."""


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Who this worker is, and whom it waits for at the start.

    Args:
        run: name of the run; workers of another one are not met.
        worker: id of this worker, from 0.
        workers: how many begin a run together.
        least: how many begin without the others, once those are late.
        late_after: seconds until then.
        patience: seconds after which those who are too few give up.
        reached: the step that the run is known to have come to; who is behind it only joins others, and begins nothing.
        saved: the step of the newest whole checkpoint; None: there is none.
        passed: whether the others are known to have committed the round of a fragment after a step, or a later one,
            without this worker.
        committed: is told of each round that this worker has committed: its step, its fragment and its members.
    """

    run: str = ""
    worker: int = 0
    workers: int = 1
    least: int = 1
    late_after: float = 1200.0
    patience: float = 1800.0
    reached: Callable[[], int] = lambda: 0
    saved: Callable[[], int | None] = lambda: None
    passed: Callable[[int, int], bool] = lambda step, fragment: False
    committed: Callable[[int, int, Collection[int]], None] = lambda step, fragment, members: None


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a member tells the others before its payload."""

    run: str
    """Name of the run."""
    worker: int
    step: int
    """Inner step after which it came."""
    fragment: int
    weight: int
    """Inner steps in its window."""
    finite: bool
    digest: int
    """Of its part of the fragment's anchor; of all anchors where it sends nothing."""
    share: str
    """Its position in its share of the data, opaque."""
    history: str
    """What it has committed so far: equal on all that were in the same rounds."""
    leaving: bool = False
    """Whether it has been asked to stop, and so asks all to stop after this sync."""

    def to_bytes(self) -> bytes:
        """Returns the header as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Header":
        """Parses the result of `to_bytes`.

        Raises:
            TransportError: `data` is not a valid header.
        """
        try:
            header = cls(**json.loads(data))
        except (ValueError, TypeError, RecursionError) as error:
            raise TransportError(f"a member sent bytes that are not a header: {data[:80]!r}") from error
        sound = all(type(getattr(header, field.name)) is field.type for field in fields(cls))
        if not (
            sound
            and header.worker >= 0
            and header.step >= 0
            and header.fragment >= NOTHING
            and 0 <= header.weight < 2**63
            and -(2**63) <= header.digest < 2**63
        ):
            raise TransportError(f"a member sent bytes that are not a header: {data[:80]!r}")
        return header


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What the members of a committed round share."""

    step: int
    fragment: int
    mean: torch.Tensor | None
    """fp32 vector of the fragment; None where the leaders sent nothing."""
    weights: dict[int, int]
    """Of the workers that took part, by worker."""
    shares: dict[int, str]
    """Their positions in the data."""
    behind: tuple[int, ...]
    """Workers that missed something: they have to take over a leader's state."""
    donor: int | None
    """For a worker that is behind: rank of the leader whose state it takes over, or NOBODY."""
    donates: bool
    """Whether a worker that is behind takes over this one's state."""
    name: str
    """Of the round."""
    history: str
    """Of its members, with this round."""
    bytes_sent: int
    """By this rank to other workers, failed attempts included."""
    attempts: int
    leaving: bool = False
    """Whether all of them stop here, as one has been asked to."""


def agree(
    transport: Transport,
    own: Header,
    payload: Callable[[], torch.Tensor] | None,
    wire_of: Callable[[int], Wire],
    passed: Callable[[Collection[int]], bool] = lambda members: False,
    *,
    overwrite: bool = False,
) -> Agreement:
    """Averages the pseudogradients of those workers that take part; with the survivors again where a round fails.

    Members at the highest step lead. Others, restarted or left out of a round meanwhile, help to carry this one with
    weight 0, and know afterwards whose state to take over.

    Args:
        transport: opens the rounds.
        own: this worker's header.
        payload: returns this worker's pseudogradient, an fp32 vector on the transport's device; called once for each
            attempt. None: the worker sends nothing.
        wire_of: how a fragment travels, by index.
        passed: whether the others are known to have gone on without this worker, which then must not lead a round;
            asked with the workers that lead this one, on any of its ranks.
        overwrite: whether the mean may be written over the vector that `payload` returns.

    Raises:
        TransportError: too few workers came, or round after round failed.
        AnchorMismatch, NonFinitePseudogradient: on every member alike.
        ForeignRun: this worker belongs to another run than the others, or its config differs from theirs.
    """
    sent = 0
    for attempt in range(1, ATTEMPTS + 1):
        reach("open")
        round = transport.open(own.step)
        agreement = None
        try:
            reach("headers")
            headers = _meet(round, own)
            agreement = _carry(round, headers, payload, wire_of, attempt, transport.device, overwrite=overwrite)
        except TransportError as error:
            logger.warning("sync after step %d: %s", own.step, error)
        leads = agreement is not None and agreement.donor is None
        if transport.any_rank(leads and agreement is not None and passed(agreement.weights)):
            round.vote(False)
            return _left_behind(own)
        reach("vote")
        committed = round.vote(agreement is not None)
        reach("commit")
        sent += round.bytes_sent
        if committed and agreement is not None:
            if agreement.donor is None:
                for residual in wire_of(own.fragment).residuals.values():
                    residual.commit()
            return replace(agreement, bytes_sent=sent)
        logger.warning("sync after step %d: trying again with those who are left", own.step)
    raise TransportError(f"sync after step {own.step}: {ATTEMPTS} rounds failed one after the other")


def assemble(transport: Transport, own: Header, wire_of: Callable[[int], Wire], awaited: Crowd) -> Agreement:
    """Meets the other workers before this one's first inner step: all of them where the run begins, which compare their
    anchors; else those of the run that goes on, at their next sync.

    Args:
        transport: opens the rounds.
        own: header whose digest is of all fragments.
        wire_of: how a fragment travels, by index.
        awaited: how many have to be there to begin.

    Raises:
        TransportError: too few of them came.
        AnchorMismatch: they do not start alike.
        ForeignRun: they are at work on something else.
    """
    started = time.monotonic()
    while True:
        round = transport.open(own.step)
        waited = time.monotonic() - started
        agreement, failure = None, ""
        try:
            headers = _meet(round, own)
            enough = awaited.workers if waited < awaited.late_after else awaited.least
            if len(headers) >= enough or any(header.fragment != NOTHING for header in headers):
                agreement = _carry(round, headers, None, wire_of, 1, transport.device)
        except TransportError as error:
            failure = f", the last time: {error}"
            logger.warning("before the first step: %s", error)
        if round.vote(agreement is not None) and agreement is not None:
            return replace(agreement, bytes_sent=round.bytes_sent)
        if waited > awaited.patience:
            raise TransportError(
                f"{round.size} of {awaited.workers} workers met within {awaited.patience:g} s "
                f"(fault_tolerance.quorum_timeout_seconds){failure}"
            )
        time.sleep(0.2)


def _left_behind(own: Header) -> Agreement:
    """What a worker that does not know where the others are has agreed on with nobody."""
    return Agreement(
        step=own.step,
        fragment=own.fragment,
        mean=None,
        weights={},
        shares={},
        behind=(own.worker,),
        donor=NOBODY,
        donates=False,
        name="",
        history=own.history,
        bytes_sent=0,
        attempts=0,
    )


def _meet(round: Round, own: Header) -> list[Header]:
    return [Header.from_bytes(data) for data in gather_bytes(round, own.to_bytes())]


def _carry(
    round: Round,
    headers: Sequence[Header],
    payload: Callable[[], torch.Tensor] | None,
    wire_of: Callable[[int], Wire],
    attempt: int,
    device: torch.device,
    *,
    overwrite: bool = False,
) -> Agreement:
    """Exchanges what the leaders have brought."""
    leaders = find_leaders(headers)
    leading = [headers[rank] for rank in leaders]
    _refuse_strangers(headers, leaders, round.rank)
    try:
        check_alike(leading)
        _refuse_non_finite(leading)
    except (AnchorMismatch, NonFinitePseudogradient):
        with contextlib.suppress(TransportError):
            gather_bytes(round, b"read")  # whoever left before all have read the headers would look like a lost worker
        raise
    step, fragment = leading[0].step, leading[0].fragment
    mean = None
    if fragment != NOTHING:
        try:
            wire = wire_of(fragment)
        except IndexError:
            what = f"run {headers[leaders[0]].run!r} syncs fragment {fragment}, which this worker does not have"
            raise ForeignRun(f"{what}; start it with the run's own config") from None
        if round.rank in leaders and payload is not None:
            vector = payload()
        else:
            vector = torch.zeros(sum(map(math.prod, wire.shapes)), device=device)
            wire = replace(wire, sent=None, owned=None)  # it only carries: what it has left itself is another matter
        weights = [header.weight if rank in leaders else 0 for rank, header in enumerate(headers)]
        reach("scatter")
        mean = average(round, vector, wire, weights, overwrite=overwrite)
    behind = [rank for rank in range(len(headers)) if rank not in leaders]
    donors = dict(zip(behind, itertools.cycle(leaders)))
    members = " ".join(str(header.worker) for header in leading)
    return Agreement(
        step=step,
        fragment=fragment,
        mean=mean,
        weights={header.worker: header.weight for header in leading},
        shares={header.worker: header.share for header in leading},
        behind=tuple(headers[rank].worker for rank in behind),
        donor=donors.get(round.rank),
        donates=round.rank in donors.values(),
        name=round.name,
        history=hashlib.sha256(f"{leading[0].history} {round.name}: {members}".encode()).hexdigest()[:16],
        bytes_sent=0,
        attempts=attempt,
        leaving=any(header.leaving for header in headers),
    )


def find_leaders(headers: Sequence[Header]) -> list[int]:
    """Ranks of the members that are where the run is: at the highest step, on the way rather than about to begin, and
    of those the largest number that was in the same rounds (the one with the lowest rank, if there are two)."""
    furthest = max((header.step, header.fragment != NOTHING) for header in headers)
    by_history: dict[str, list[int]] = {}
    for rank, header in enumerate(headers):
        if (header.step, header.fragment != NOTHING) == furthest:
            by_history.setdefault(header.history, []).append(rank)
    return max(by_history.values(), key=lambda ranks: (len(ranks), -ranks[0]))


def _refuse_strangers(headers: Sequence[Header], leaders: Sequence[int], rank: int) -> None:
    """Whoever belongs to another run than the leaders, or bears the number of one of them, stops; the leaders try again
    without it."""
    run = headers[leaders[0]].run
    numbers = [headers[leader].worker for leader in leaders]
    twice = {number for number in numbers if numbers.count(number) > 1}
    if twice:
        raise ForeignRun(f"several workers of run {run!r} have the number {min(twice)} (fault_tolerance.replica_id)")
    strangers = [
        other
        for other, header in enumerate(headers)
        if other not in leaders and (header.run != run or header.worker in numbers)
    ]
    if rank in strangers:
        own = headers[rank]
        raise ForeignRun(
            f"the lighthouse serves run {run!r}; start run {own.run!r} with one of its own"
            if own.run != run
            else f"run {run!r} has a worker {own.worker} already (fault_tolerance.replica_id)"
        )
    if strangers:
        raise TransportError(f"a stranger came to the lighthouse: {headers[strangers[0]]}")


def check_alike(headers: Sequence[Header]) -> None:
    """Raises AnchorMismatch where members of one step send different fragments or hold different anchors."""
    step = headers[0].step
    if len({header.fragment for header in headers}) > 1:
        where = ", ".join(f"worker {header.worker}: {header.fragment}" for header in headers)
        raise AnchorMismatch(f"sync after step {step}: the workers send different fragments ({where})")
    if len({header.digest for header in headers}) > 1:
        what = "" if headers[0].fragment == NOTHING else f" of fragment {headers[0].fragment}"
        digests = ", ".join(f"worker {header.worker}: {as_hex(header.digest)}" for header in headers)
        raise AnchorMismatch(f"sync after step {step}: the workers' anchors{what} differ ({digests})")


def _refuse_non_finite(headers: Sequence[Header]) -> None:
    guilty = [header.worker for header in headers if not header.finite]
    if guilty:
        raise NonFinitePseudogradient(
            f"sync after step {headers[0].step}: NaN or Inf in the pseudogradient of worker {guilty}, "
            f"fragment {headers[0].fragment}"
        )
