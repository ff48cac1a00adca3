"""One sync as a transaction: all surviving members end with the same mean, or nobody has it and they try again."""

import contextlib
import hashlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch

from muloco.errors import AttemptFailed, RunFailed
from muloco.failpoints import hit
from muloco.outer.company import ForeignRun, Stranger, company_of, find_leaders, too_far_ahead
from muloco.outer.compression import Wire
from muloco.outer.digest import as_hex
from muloco.outer.exchange import average, gather_bytes
from muloco.outer.header import NOTHING, PROTOCOL, Header, read_header
from muloco.outer.reachability import StaysOut
from muloco.outer.transport import Round, Transport, TransportError

logger = logging.getLogger(__name__)

ATTEMPTS = 10
"""Rounds that may fail in a row before the worker gives up. A round does not count if it fails because of a stranger,
or if this worker stays out of it because it cannot reach another one."""
PAUSE_SECONDS = 0.5
"""Pause after a round that does not count. After one that counts there is none at first, so that the survivors of a
lost worker go on at once, and then one that is longer each time: what makes rounds fail at once may soon be over."""
TELL_SECONDS = 5.0
"""Seconds after which a worker that waits at the start says for how many others it waits."""
ALONE_SECONDS = 30.0
"""Seconds after which a new worker that has met only strangers since its first round concludes that it is the stranger
itself. Until then other workers of its run may still arrive. A stranger that comes later does not count."""
NOBODY = -1
"""Value of `Agreement.donor` if the others have gone on without this worker, which then has to look for them."""


class AnchorMismatch(RunFailed):
    """Workers hold different anchors: something has corrupted the state, or they did not start alike."""


class StateLost(AttemptFailed):
    """A run has come further than any worker that is left: to begin anew would throw away what it has learned."""


class NonFinitePseudogradient(RunFailed):
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
        patience: seconds after which workers give up waiting for enough others.
        reached: returns the step that the run is known to have reached. Workers behind it can only join others.
        passed: tells whether the others are known to have committed the round of a fragment after a step, or a later
            one, without this worker.
        committed: called for each round that this worker has committed, with its step, its fragment and its members.
    """

    run: str = ""
    worker: int = 0
    workers: int = 1
    least: int = 1
    late_after: float = 1200.0
    patience: float = 1800.0
    reached: Callable[[], int] = lambda: 0
    passed: Callable[[int, int], bool] = lambda step, fragment: False
    committed: Callable[[int, int, Collection[int]], None] = lambda step, fragment, members: None


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
    patience: float = 1800.0,
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
        passed: tells whether the others are known to have gone on without this worker, which then must not lead a
            round. It is called with the workers that lead this round, on any rank of this worker.
        overwrite: whether the mean may be written over the vector that `payload` returns.
        patience: seconds for which rounds may fail because of strangers.

    Raises:
        TransportError: too few workers came, or round after round failed.
        AnchorMismatch, NonFinitePseudogradient: on every member alike.
        ForeignRun: this worker does not belong to the run; see `muloco.outer.company.company_of`.
    """
    started = time.monotonic()
    sent = failures = 0
    for attempt in itertools.count(1):
        hit("open")
        round = transport.open(own.step)
        agreement, counts, stranger = None, True, False
        try:
            hit("headers")
            headers = _meet(round, own)
            agreement = _carry(round, headers, payload, wire_of, attempt, transport.device, overwrite=overwrite)
        except TransportError as error:
            stranger, counts = isinstance(error, Stranger), not isinstance(error, Stranger | StaysOut)
            logger.warning("sync after step %d: %s", own.step, error)
        leads = agreement is not None and agreement.donor is None
        if transport.any_rank(leads and agreement is not None and passed(agreement.weights)):
            round.vote(False)
            return _left_behind(own)
        hit("vote")
        committed = round.vote(agreement is not None)
        hit("commit")
        sent += round.bytes_sent
        if committed and agreement is not None:
            if agreement.donor is None:
                for residual in wire_of(own.fragment).residuals.values():
                    residual.commit()
            return replace(agreement, bytes_sent=sent)
        logger.warning("sync after step %d: trying again with those who are left", own.step)
        counts = not transport.any_rank(not counts)
        failures += counts
        give_up = ""
        if failures == ATTEMPTS:
            give_up = f"{ATTEMPTS} rounds failed one after the other"
        elif stranger and time.monotonic() - started > patience:
            give_up = f"for {patience:g} s all rounds have failed because of a worker that does not belong to the run"
        if transport.any_rank(give_up != ""):  # their clocks differ, and a rank that went on alone would wait for ever
            raise TransportError(f"sync after step {own.step}: {give_up or 'another rank of this worker has given up'}")
        time.sleep(PAUSE_SECONDS * (max(0, failures - 2) if counts else 1))
    raise AssertionError("there is always another attempt")


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
        ForeignRun: this worker does not belong to the run; see `muloco.outer.company.company_of`.
    """
    started, first_comer, told = time.monotonic(), False, 0
    while True:
        round = transport.open(own.step)
        waited = time.monotonic() - started
        agreement, failure, stays_out = None, "", False
        try:
            headers = _meet(round, own)
            first_comer |= not round.strangers
            among_strangers = bool(round.strangers) and round.size == 1 and not own.experienced
            if among_strangers and not first_comer and waited >= ALONE_SECONDS:
                raise ForeignRun(
                    f"this worker and {', '.join(round.strangers)}, who are all that came to the lighthouse, do not "
                    f"have the same secret (MULOCO_SECRET) and version of the protocol ({PROTOCOL} here); give it the "
                    "secret of the run, and install the same muloco"
                )
            enough = awaited.workers if waited < awaited.late_after else awaited.least
            if not among_strangers and (len(headers) >= enough or any(h.fragment != NOTHING for h in headers)):
                agreement = _carry(round, headers, None, wire_of, 1, transport.device)
        except TransportError as error:
            failure, stays_out = f", the last time: {error}", isinstance(error, StaysOut)
            logger.warning("before the first step: %s", error)
        if round.vote(agreement is not None) and agreement is not None:
            return replace(agreement, bytes_sent=round.bytes_sent)
        if waited > TELL_SECONDS and not failure and round.size != told:
            told = round.size
            logger.info(
                "waiting for other workers: %d of %d are here; training begins when all are, or after %g s with at "
                "least %d (fault_tolerance.straggler_timeout_seconds, min_replica_size)",
                *(round.size, awaited.workers, awaited.late_after, awaited.least),
            )
        if transport.any_rank(waited > awaited.patience and not stays_out):
            raise TransportError(
                f"{round.size} of {awaited.workers} workers met within {awaited.patience:g} s "
                f"(fault_tolerance.quorum_timeout_seconds){failure}{_without_secret(round.strangers)}"
            )
        time.sleep(0.2)


def _without_secret(strangers: Sequence[str]) -> str:
    return f"; {', '.join(strangers)} came without the secret of this run or its version of muloco" if strangers else ""


def _left_behind(own: Header) -> Agreement:
    """Returns the result for a worker that was left behind and has not found the others yet."""
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
    """Exchanges headers and returns those of all members, which can take part in one round.

    Raises:
        ForeignRun: this worker does not belong to the run.
        TransportError: another member does not belong to it; or one is gone or too slow.
    """
    return company_of([read_header(data) for data in gather_bytes(round, own.to_bytes())], round.rank)


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
    for rank in too_far_ahead(headers):
        logger.warning(
            "worker %d claims to be at step %d, more than one window ahead of more than half of all workers: the claim "
            "is not believed, and it has to take over the state of the workers at step %d",
            *(headers[rank].worker, headers[rank].step, leading[0].step),
        )
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
        wire = wire_of(fragment)
        if round.rank in leaders and payload is not None:
            vector = payload()
        else:
            vector = torch.zeros(sum(map(math.prod, wire.shapes)), device=device)
            wire = replace(wire, sent=None, owned=None)  # it only carries: what it has left itself is another matter
        weights = [header.weight if rank in leaders else 0 for rank, header in enumerate(headers)]
        hit("scatter")
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
