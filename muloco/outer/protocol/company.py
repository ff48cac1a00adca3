"""Decides which members of a round belong to the run, and which of them are ahead (the leaders).

A company is a set of members that can take part in the same rounds, because they are of the same run and have the same
`Terms`. Normally all members of a round form one company. If there are several, one of them is the run.
"""

import logging
from collections.abc import Hashable, Sequence

from muloco.errors import RunFailed
from muloco.outer.protocol.header import PROTOCOL, Header, Unreadable
from muloco.outer.protocol.terms import Terms
from muloco.outer.protocol.transport import TransportError

logger = logging.getLogger(__name__)


class ForeignRun(RunFailed):
    """This worker does not belong to the run that the lighthouse serves, and has to stop."""


class Stranger(TransportError):
    """Another member of the round does not belong to the run; the round fails and is repeated without it."""


def company_of(members: Sequence[Header | Unreadable], rank: int) -> list[Header]:
    """Returns the headers of all members, if they can all take part in one round.

    Members with the same run and the same terms form a company. So do members that use the same other version of the
    protocol, and members whose messages are not headers at all. One company is the run: the one with the most members
    that send a fragment; among equals the one with the most members that have been in a committed round, then the one
    with the most members, then the one with the lowest rank, which is the lowest worker number. Thus newcomers never
    stop a worker that has been in a committed round, and of two different newcomers the one with the lower number
    stays. A member of any other company has to stop. So does a member of the run whose worker number or window is
    impossible, or whose number is taken. The others repeat the round until that member has gone.

    Args:
        members: the messages of all members, in rank order.
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
    """Returns the ranks of the leaders: the members whose state is that of the run, which all others take over.

    Leaders are at the highest step. Members that send a fragment come before members that have not begun to train. If
    members at that step were in different rounds, the largest set with equal commit hashes leads; among equally large
    ones, the one with the lowest rank. Members that are `too_far_ahead` do not count.
    """
    disbelieved = too_far_ahead(headers)
    believed = [rank for rank in range(len(headers)) if rank not in disbelieved]
    furthest = max((headers[rank].step, headers[rank].sends) for rank in believed)
    by_hash: dict[str, list[int]] = {}
    for rank in believed:
        if (headers[rank].step, headers[rank].sends) == furthest:
            by_hash.setdefault(headers[rank].commit_hash, []).append(rank)
    return max(by_hash.values(), key=lambda ranks: (len(ranks), -ranks[0]))


def too_far_ahead(headers: Sequence[Header]) -> list[int]:
    """Returns the ranks of the members whose claim to be ahead of the others is not believed.

    If more than half of all K workers, present or not, send a fragment at the same step and have the same commit hash,
    then a member that is more than one window (H inner steps) ahead of them is not believed. If fewer than that are at
    one step, it is believed, since it may have gone on without them. A worker can be one window ahead without the
    knowledge of the others, if it committed a round in which they lost contact.
    """
    terms = headers[0].terms
    together: dict[tuple[int, str], set[int]] = {}
    for header in headers:
        if header.sends:
            together.setdefault((header.step, header.commit_hash), set()).add(header.worker)
    steps = [step for (step, _), workers in together.items() if 2 * len(workers) > terms.workers]
    if not steps:
        return []
    return [rank for rank, header in enumerate(headers) if header.step > min(steps) + terms.sync_interval]


def _reason(member: Header | Unreadable, right: Header | Unreadable) -> str:
    """Returns why a member cannot take part in the rounds of the run to which the member `right` belongs."""
    if isinstance(member, Header) and isinstance(right, Header):
        if member.run != right.run:
            return f"the lighthouse serves run {right.run!r}; start run {member.run!r} with one of its own"
        differences = [
            f"{field}={_shown(own)}, the run has {_shown(theirs)}"
            for field, (own, theirs) in member.terms.differences(right.terms).items()
        ]
        return f"this worker has {'; '.join(differences)} (start worker {member.worker} with the config of the run)"
    own, theirs = (PROTOCOL if isinstance(m, Header) else m.protocol for m in (member, right))
    if own is None:
        return f"it sends bytes that are not a header: {member.text if isinstance(member, Unreadable) else ''}"
    if theirs is None:
        return "the other members send bytes that are not headers, and this worker has no history that outweighs them"
    return f"it uses version {own} of the protocol, the run uses version {theirs}; install the same version of muloco"


def _impossible(ours: dict[int, Header]) -> dict[int, str]:
    """Returns, by rank, why members of the run cannot take part although their terms are right."""
    reasons: dict[int, str] = {}
    for rank, header in ours.items():
        terms = header.terms
        if header.worker >= terms.workers:
            reasons[rank] = (
                f"run {header.run!r} has workers 0 to {terms.workers - 1}, and no worker {header.worker} "
                "(fault_tolerance.replica_id)"
            )
        elif header.fragment is not None and header.fragment >= terms.fragments:
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
