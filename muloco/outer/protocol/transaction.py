"""One sync as a transaction: all surviving members end with the same mean, or nobody has it and they try again."""

import contextlib
import hashlib
import itertools
import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch

from muloco.errors import AttemptFailed, RunFailed
from muloco.failpoints import hit
from muloco.outer.codecs.channel import Channel
from muloco.outer.protocol.company import ForeignRun, Stranger, company_of, find_leaders, too_far_ahead
from muloco.outer.protocol.exchange import average, gather_bytes
from muloco.outer.protocol.header import PROTOCOL, Header, as_hex, read_header
from muloco.outer.protocol.outcome import CatchUp, Committed, LeftBehind, Outcome
from muloco.outer.protocol.quorum import QuorumPolicy
from muloco.outer.protocol.reachability import StaysOut
from muloco.outer.protocol.transport import Round, Transport, TransportError
from muloco.outer.protocol.whereabouts import MEETING_SECONDS, Search

logger = logging.getLogger(__name__)

ATTEMPTS = 10
"""Rounds that may fail in a row before the worker gives up. A round does not count if it fails because of a stranger,
if it waits for a worker that is missing, or if this worker stays out of it because it cannot reach another one."""
PAUSE_SECONDS = 0.5
"""Pause after a round that does not count. After one that counts there is none at first, so that the survivors of a
lost worker go on at once, and then one that is longer each time: what makes rounds fail at once may soon be over."""
TELL_SECONDS = 5.0
"""Seconds after which a worker that waits at the start says for how many others it waits."""
ALONE_SECONDS = 30.0
"""Seconds after which a new worker that has met only strangers since its first round concludes that it is the stranger
itself. Until then other workers of its run may still arrive. A stranger that comes later does not count."""


class AnchorMismatch(RunFailed):
    """Workers hold different anchors or states of the outer optimizer: these were corrupted, or the workers did not
    start alike."""


class StateLost(AttemptFailed):
    """A run has come further than any worker that is left. Beginning again would throw away what it has learned."""


class NonFinitePseudogradient(RunFailed):
    """A worker's pseudogradient holds NaN or Inf."""


class Waits(TransportError):
    """The leaders of this round wait for a worker that is alive and missing in it."""


def agree(
    transport: Transport,
    own: Header,
    payload: Callable[[], torch.Tensor] | None,
    channel_of: Callable[[int], Channel],
    committed_without_me: Callable[[Collection[int]], bool] = lambda members: False,
    search: Search | None = None,
    *,
    again: Callable[[Header], Header] = lambda own: own,
    overwrite: bool = False,
    patience: float = QuorumPolicy.quorum_timeout_seconds,
) -> Outcome:
    """Averages the pseudogradients of the workers that take part. If a round fails, it is repeated with the workers
    that are left.

    Members at the highest step lead. Others, restarted or left out of a round meanwhile, help to carry this one with
    weight 0, and know afterwards whose state to take over.

    Args:
        transport: opens the rounds.
        own: this worker's header.
        payload: returns this worker's pseudogradient, an fp32 vector on the transport's device; called once for each
            attempt. None: the worker sends nothing.
        channel_of: how a fragment travels, by index.
        committed_without_me: tells whether the others are known to have gone on without this worker, which then must
            not lead a round. It is called with the workers that lead this round, on any rank of this worker.
        search: finds out whether the round waits for workers that are missing; None: it waits for nobody.
        again: returns this worker's header for another attempt, with the digests of its state as it is then.
        overwrite: whether the mean may be written over the vector that `payload` returns.
        patience: seconds for which rounds may fail because of strangers.

    Raises:
        TransportError: too few workers came, or round after round failed.
        AnchorMismatch, NonFinitePseudogradient: on every member alike.
        ForeignRun: this worker does not belong to the run; see `muloco.outer.protocol.company.company_of`.
    """
    started = transport.clock.now()
    sent = failures = 0
    for attempt in itertools.count(1):
        hit("open")
        this_round = transport.open(own.step)
        outcome, why = None, TransportError("another member has voted no")
        try:
            hit("headers")
            waits = search is not None and search.waits(this_round)
            headers = _meet(this_round, replace(own, waits=waits))
            outcome = _carry(this_round, headers, payload, channel_of, attempt, transport.device, overwrite=overwrite)
        except TransportError as error:
            why = error
            if not isinstance(error, Waits):
                logger.warning("sync after step %d: %s", own.step, error)
            if not isinstance(error, StaysOut | Waits):  # at once: the other ranks of this worker may wait for members
                transport.cut()  # that wait for this rank
        if transport.any_rank(isinstance(outcome, Committed) and committed_without_me(outcome.weights)):
            this_round.vote(False)
            return LeftBehind()
        hit("vote")
        committed = this_round.vote(outcome is not None)
        hit("commit")
        sent += this_round.bytes_sent
        if committed:
            match outcome:
                case Committed():
                    if outcome.fragment is not None:
                        channel_of(outcome.fragment).commit()
                    return replace(outcome, bytes_sent=sent)
                case CatchUp():
                    return outcome
        if search is not None:
            search.failed(stays_out=isinstance(why, StaysOut))
        if not isinstance(why, Waits):
            logger.warning("sync after step %d: trying again with the workers that are left", own.step)
        counts = not transport.any_rank(isinstance(why, Stranger | StaysOut | Waits))
        failures += counts
        give_up = ""
        if failures == ATTEMPTS:
            give_up = f"{ATTEMPTS} rounds failed one after the other"
        elif isinstance(why, Stranger) and transport.clock.now() - started > patience:
            give_up = f"for {patience:g} s all rounds have failed because of a worker that does not belong to the run"
        if transport.any_rank(give_up != ""):  # their clocks differ, and a rank that went on alone would wait for ever
            raise TransportError(f"sync after step {own.step}: {give_up or 'another rank of this worker has given up'}")
        transport.clock.sleep(PAUSE_SECONDS * (max(0, failures - 2) if counts else 1))
        own = again(own)
    raise AssertionError("there is always another attempt")


def assemble(
    transport: Transport,
    own: Header,
    channel_of: Callable[[int], Channel],
    quorum: QuorumPolicy,
    may_begin: Callable[[], bool] = lambda: True,
) -> Committed | CatchUp:
    """Meets the other workers before this one's first inner step: all of them where the run begins, which compare their
    anchors; else those of the run that goes on, at their next sync.

    Args:
        transport: opens the rounds.
        own: header whose digest is of all fragments.
        channel_of: how a fragment travels, by index.
        quorum: how many workers have to be there to begin, and how long to wait for them.
        may_begin: called before this worker votes to begin; tells whether it does.

    Raises:
        TransportError: too few of them came.
        AnchorMismatch: they do not start alike.
        ForeignRun: this worker does not belong to the run; see `muloco.outer.protocol.company.company_of`.
    """
    started, first_comer, told = transport.clock.now(), False, 0
    late_from = started + quorum.straggler_timeout_seconds
    workers = own.terms.workers
    while True:
        asked = transport.clock.now()
        this_round = transport.open(own.step)
        met = transport.clock.now()
        waited = met - started
        if asked < late_from and met - asked > MEETING_SECONDS:
            late_from = max(late_from, met + MEETING_SECONDS)
        outcome, failure, stays_out = None, "", False
        try:
            headers = _meet(this_round, own)
            first_comer |= not this_round.strangers
            among_strangers = bool(this_round.strangers) and this_round.size == 1 and not own.experienced
            if among_strangers and not first_comer and waited >= ALONE_SECONDS:
                raise ForeignRun(
                    f"this worker and {', '.join(this_round.strangers)}, the only ones at the lighthouse, do "
                    f"not have the same secret (MULOCO_SECRET) and version of the protocol ({PROTOCOL} here); give it "
                    "the secret of the run, and install the same muloco"
                )
            enough = workers if met < late_from else quorum.min_replica_size
            if not among_strangers and (len(headers) >= enough or any(header.sends for header in headers)):
                outcome = _carry(this_round, headers, None, channel_of, 1, transport.device)
        except TransportError as error:
            failure, stays_out = f", the last time: {error}", isinstance(error, StaysOut)
            logger.warning("before the first step: %s", error)
        if isinstance(outcome, Committed) and not may_begin():
            outcome = None
        if this_round.vote(outcome is not None):
            match outcome:
                case Committed():
                    return replace(outcome, bytes_sent=this_round.bytes_sent)
                case CatchUp():
                    return outcome
        if waited > TELL_SECONDS and not failure and this_round.size != told:
            told = this_round.size
            logger.info(
                "waiting for other workers: %d of %d are here; training begins when all are, or after %g s with at "
                "least %d (fault_tolerance.straggler_timeout_seconds, min_replica_size)",
                this_round.size,
                workers,
                quorum.straggler_timeout_seconds,
                quorum.min_replica_size,
            )
        if transport.any_rank(waited > quorum.quorum_timeout_seconds and not stays_out):
            raise TransportError(
                f"{this_round.size} of {workers} workers met within {quorum.quorum_timeout_seconds:g} s "
                f"(fault_tolerance.quorum_timeout_seconds){failure}{_without_secret(this_round.strangers)}"
            )
        transport.clock.sleep(0.2)


def _without_secret(strangers: Sequence[str]) -> str:
    return f"; {', '.join(strangers)} came without the secret of this run or its version of muloco" if strangers else ""


def _meet(this_round: Round, own: Header) -> list[Header]:
    """Exchanges headers and returns those of all members, which can take part in one round.

    Raises:
        ForeignRun: this worker does not belong to the run.
        TransportError: another member does not belong to it; or one is gone or too slow.
    """
    return company_of([read_header(data) for data in gather_bytes(this_round, own.to_bytes())], this_round.rank)


def _carry(
    this_round: Round,
    headers: Sequence[Header],
    payload: Callable[[], torch.Tensor] | None,
    channel_of: Callable[[int], Channel],
    attempt: int,
    device: torch.device,
    *,
    overwrite: bool = False,
) -> Committed | CatchUp:
    """Exchanges the pseudogradients of the leaders. The result holds if all members vote for it."""
    leaders = find_leaders(headers)
    leading = [headers[rank] for rank in leaders]
    for rank in too_far_ahead(headers):
        logger.warning(
            "worker %d claims to be at step %d, more than one window ahead of more than half of all workers: the claim "
            "is not believed, and it has to take over the state of the workers at step %d",
            headers[rank].worker,
            headers[rank].step,
            leading[0].step,
        )
    try:
        check_alike(leading)
        _refuse_non_finite(leading)
    except (AnchorMismatch, NonFinitePseudogradient):
        with contextlib.suppress(TransportError):  # a worker that left before all have read them would look lost
            gather_bytes(this_round, b"read")
        raise
    if any(header.waits for header in leading):
        raise Waits("the round waits for a worker that is alive and not here")
    step, fragment = leading[0].step, leading[0].fragment
    mean = None
    if fragment is not None:
        channel: Channel | None = channel_of(fragment)
        layout = channel_of(fragment).layout
        if this_round.rank in leaders and payload is not None:
            vector = payload()
        else:
            vector = torch.zeros(sum(map(math.prod, layout.shapes)), device=device)
            channel = None  # it only carries the others' parts, and keeps what it has of its own
        weights = [header.weight if rank in leaders else 0 for rank, header in enumerate(headers)]
        hit("scatter")
        mean = average(this_round, vector, layout, weights, channel=channel, overwrite=overwrite)
    behind = [rank for rank in range(len(headers)) if rank not in leaders]
    donors = dict(zip(behind, itertools.cycle(leaders)))
    members = " ".join(str(header.worker) for header in leading)
    committed = Committed(
        step=step,
        fragment=fragment,
        mean=mean,
        weights={header.worker: header.weight for header in leading},
        data_positions={header.worker: header.data_position for header in leading},
        behind=tuple(headers[rank].worker for rank in behind),
        donates=this_round.rank in donors.values(),
        name=this_round.name,
        commit_hash=_extended(leading[0].commit_hash, f"{this_round.name}: {members}"),
        bytes_sent=0,
        attempts=attempt,
        stops=any(header.asks_to_stop for header in headers),
    )
    if this_round.rank in donors:
        return CatchUp(donor=donors[this_round.rank], committed=committed)
    return committed


def _extended(commit_hash: str, entry: str) -> str:
    """Returns the hash of all rounds that have been committed, with another one."""
    return hashlib.sha256(f"{commit_hash} {entry}".encode()).hexdigest()[:16]


def check_alike(headers: Sequence[Header]) -> None:
    """Raises AnchorMismatch where members of one step send different fragments, or hold different anchors or states of
    the outer optimizer."""
    step = headers[0].step
    if len({header.fragment for header in headers}) > 1:
        where = ", ".join(f"worker {header.worker}: {header.fragment}" for header in headers)
        raise AnchorMismatch(f"sync after step {step}: the workers send different fragments ({where})")
    where = "" if headers[0].fragment is None else f" of fragment {headers[0].fragment}"
    anchors, states = [header.digest for header in headers], [header.outer_digest for header in headers]
    for what, digests in (("anchors", anchors), ("outer optimizer states", states)):
        if len(set(digests)) > 1:
            pairs = zip(headers, digests, strict=True)
            told = ", ".join(f"worker {header.worker}: {as_hex(digest)}" for header, digest in pairs)
            raise AnchorMismatch(f"sync after step {step}: the workers' {what}{where} differ ({told})")


def _refuse_non_finite(headers: Sequence[Header]) -> None:
    guilty = [header.worker for header in headers if not header.finite]
    if guilty:
        raise NonFinitePseudogradient(
            f"sync after step {headers[0].step}: NaN or Inf in the pseudogradient of worker {guilty}, "
            f"fragment {headers[0].fragment}"
        )
