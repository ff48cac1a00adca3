"""Which members of a round belong to the run, and which of them lead it."""

import logging
from collections.abc import Hashable, Sequence

from muloco.outer.header import PROTOCOL, Header, Unreadable
from muloco.outer.terms import Terms
from muloco.outer.transport import TransportError

logger = logging.getLogger(__name__)


class ForeignRun(RuntimeError):
    """A worker does not belong to those that meet at its lighthouse."""


class Stranger(TransportError):
    """A member of the round does not belong to the run."""


def company_of(members: Sequence[Header | Unreadable], rank: int) -> list[Header]:
    """Returns the headers of all members, once it is certain that they can take part in one round.

    Members that have the same run and the same terms form a company; so do members whose messages are of the same other
    version of the protocol, and those whose messages cannot be read at all. One company is the run: the one with the
    most members that send a fragment, then with the most that have been in a committed round, then with the most
    members, then the one with the lowest rank, which is the lowest worker number. So a worker that has been in a
    committed round never stops because of newcomers, and of two newcomers that differ the first one stays. Whoever is
    in another company stops, and so does a member of the run with an impossible number or window, or with a number
    that another one has. The others repeat the round until it has gone.

    Args:
        members: what each member has sent, in rank order.
        rank: of this worker.

    Raises:
        ForeignRun: this worker has to stop.
        Stranger: another member has to stop.
    """
    companies: dict[Hashable, list[int]] = {}
    for place, member in enumerate(members):
        companies.setdefault(member.company, []).append(place)

    def standing(ranks: list[int]) -> tuple[int, int, int, int]:
        ours = [members[place] for place in ranks]
        return sum(m.sends for m in ours), sum(m.experienced for m in ours), len(ours), -ranks[0]

    run = max(companies.values(), key=standing)
    reasons = {place: _reason(member, members[run[0]]) for place, member in enumerate(members) if place not in run}
    ours = {place: member for place in run if isinstance(member := members[place], Header)}
    reasons |= _impossible(ours)
    if rank in reasons:
        raise ForeignRun(reasons[rank])
    if reasons:
        place, reason = min(reasons.items())
        raise Stranger(f"member {place} of the round does not belong to the run and has to stop: {reason}")
    return list(ours.values())


def find_leaders(headers: Sequence[Header]) -> list[int]:
    """Ranks of the members of a run that are where the run is: at the highest step, on the way rather than about to
    begin, and of those the largest number that was in the same rounds (the one with the lowest rank, if there are two).

    Members that are `too_far_ahead` are not believed, and do not count.
    """
    disbelieved = too_far_ahead(headers)
    believed = [rank for rank in range(len(headers)) if rank not in disbelieved]
    furthest = max((headers[rank].step, headers[rank].sends) for rank in believed)
    by_history: dict[str, list[int]] = {}
    for rank in believed:
        if (headers[rank].step, headers[rank].sends) == furthest:
            by_history.setdefault(headers[rank].history, []).append(rank)
    return max(by_history.values(), key=lambda ranks: (len(ranks), -ranks[0]))


def too_far_ahead(headers: Sequence[Header]) -> list[int]:
    """Ranks of the members of a run whose claim to be ahead of the others is not believed.

    If more than half of all workers of the run (K, whether they are in the round or not) send a fragment at one step
    and have been in the same rounds, then whoever is more than one window (H inner steps) ahead of them is not
    believed. Where the others are fewer, it is: it may have gone on without them. One window is what a worker can be
    ahead without their knowledge, if they lost contact in a round that it committed.
    """
    terms = headers[0].terms
    together: dict[tuple[int, str], set[int]] = {}
    for header in headers:
        if header.sends:
            together.setdefault((header.step, header.history), set()).add(header.worker)
    steps = [step for (step, _), workers in together.items() if 2 * len(workers) > terms.workers]
    if not steps:
        return []
    return [rank for rank, header in enumerate(headers) if header.step > min(steps) + terms.sync_interval]


def _reason(member: Header | Unreadable, right: Header | Unreadable) -> str:
    """Why a member cannot take part in the rounds of the run to which the other one belongs."""
    if isinstance(member, Header) and isinstance(right, Header):
        if member.run != right.run:
            return f"the lighthouse serves run {right.run!r}; start run {member.run!r} with one of its own"
        differences = [
            f"{field}={_shown(own)}, the run has {_shown(theirs)}"
            for field, (own, theirs) in member.terms.differences(right.terms).items()
        ]
        return f"this worker has {'; '.join(differences)} (start worker {member.worker} with the config of the run)"
    own, theirs = (PROTOCOL if isinstance(one, Header) else one.protocol for one in (member, right))
    if own is None:
        return f"it sends bytes that are not a header: {member.text if isinstance(member, Unreadable) else ''}"
    if theirs is None:
        return "the other members send bytes that are not headers, and this worker has no history that outweighs them"
    return f"it speaks version {own} of the protocol, the run speaks version {theirs}; install the same muloco"


def _impossible(ours: dict[int, Header]) -> dict[int, str]:
    """Why members of the run, by rank, cannot take part though their terms are right."""
    reasons: dict[int, str] = {}
    for rank, header in ours.items():
        terms = header.terms
        if header.worker >= terms.workers:
            reasons[rank] = (
                f"run {header.run!r} has workers 0 to {terms.workers - 1}, and no worker {header.worker} "
                "(fault_tolerance.replica_id)"
            )
        elif header.fragment >= terms.fragments:
            reasons[rank] = (
                f"worker {header.worker} sends fragment {header.fragment} of a model in {terms.fragments} fragments"
            )
        elif not _is_window(header, terms):
            reasons[rank] = (
                f"worker {header.worker} has a window of {header.weight} inner steps; a worker that sends has 1 to "
                f"{terms.sync_interval}, another one 0"
            )
    sound = {rank: header for rank, header in ours.items() if rank not in reasons}
    if not sound:
        return reasons
    ranks, leaders = list(sound), find_leaders(list(sound.values()))
    leading = {ranks[leader] for leader in leaders}
    holders: dict[int, int] = {}
    for rank in sorted(sound, key=lambda r: (r not in leading, not sound[r].sends, not sound[r].experienced, r)):
        header = sound[rank]
        if header.worker in holders:
            reasons[rank] = f"run {header.run!r} has a worker {header.worker} already (fault_tolerance.replica_id)"
        holders.setdefault(header.worker, rank)
    return reasons


def _is_window(header: Header, terms: Terms) -> bool:
    return 1 <= header.weight <= terms.sync_interval if header.sends else header.weight == 0


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
