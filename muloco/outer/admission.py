"""Who is let into a new group of workers: those that hold the run's secret and speak the same version of the protocol.

The lighthouse lets everybody into a quorum. So before its members connect, each one shows the others in their store
that it holds the secret, and which version it speaks. A stranger is left out, and so is a member that says nothing; the
others connect without them.

A member writes random bytes, reads those of all others, and then writes a tag over all of them. So no answer of an
earlier meeting serves a second time. Members that have met the same others connect, under a name that follows from
their common key; where they have not (one of them was too late for another one), they do not find each other, and
their round fails.
"""

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import Store

from muloco.outer.authentication import NONCE_BYTES, TAG_BYTES, Key
from muloco.outer.header import PROTOCOL
from muloco.outer.transport import TransportError

DOUBTFUL = timedelta(seconds=5)
"""Longest wait for a member of which the others do not expect that it says something."""


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What a member knows of the others before they connect."""

    key: Key
    """Of those that are let in, for this meeting."""
    name: str
    """Of their group: 16 hexadecimal digits."""
    admitted: tuple[int, ...]
    """Those that are let in, this member among them, by their ranks in the quorum."""
    strangers: tuple[int, ...]
    """Those that do not hold the secret, or speak another version of the protocol."""
    versions: dict[int, int]
    """The version of each stranger that does hold the secret."""
    silent: tuple[int, ...]
    """Those that have said nothing in time."""
    remarks: dict[int, str]
    """What each of those that are let in tells the others."""


def admit(
    store: Store,
    key: Key,
    rank: int,
    size: int,
    patience: timedelta,
    *,
    remark: str = "",
    doubtful: Collection[int] = (),
) -> Admission:
    """Meets the members of a quorum.

    Args:
        store: all members read and write it, and nothing else is there.
        key: of the run.
        rank: of this member in the quorum.
        size: number of members.
        patience: how long to wait for what each member writes.
        remark: what this member tells the others.
        doubtful: members for whom it waits `DOUBTFUL` at most, since they said nothing in the last meeting.

    Raises:
        TransportError: another holder of the secret has met other members than this one, or somebody else has changed
            what this member wrote.
        RuntimeError: the store does not answer.
    """
    own = f"{secrets.token_hex(NONCE_BYTES)} {remark}"
    store.set(f"nonce/{rank}", own)
    nonces = _collect(store, "nonce", [member for member in range(size) if member not in doubtful], patience)
    nonces |= _collect(store, "nonce", doubtful, min(DOUBTFUL, patience))
    nonces = dict(sorted(nonces.items()))
    present = [member for member, nonce in nonces.items() if nonce]
    seen = key.tag("seen", *nonces.values())
    store.set(f"proof/{rank}", f"{PROTOCOL} {(seen + key.tag('admission', PROTOCOL, rank, seen)).hex()}")
    proofs = _collect(store, "proof", present, patience)
    admitted, strangers, versions = [], [], {}
    for member, proof in proofs.items():
        version, theirs, tag = _parts(proof)
        if proof and not key.holds(tag, "admission", version, member, theirs):
            strangers.append(member)
        elif proof and version != PROTOCOL:
            strangers.append(member)
            versions[member] = version
        elif proof and theirs != seen:
            raise TransportError(f"member {member} of {size} has met other members than this worker has")
        elif proof:
            admitted.append(member)
    if rank not in admitted or nonces[rank] != own.encode():  # an old one would make the key of an old meeting again
        raise TransportError("somebody else has overwritten what this worker wrote into the store of its group")
    common = key.derive("group", seen, *admitted)
    return Admission(
        key=common,
        name=common.tag("name").hex()[:16],
        admitted=tuple(admitted),
        strangers=tuple(strangers),
        versions=versions,
        silent=tuple(member for member in range(size) if not proofs.get(member)),
        remarks={member: nonces[member].partition(b" ")[2].decode("utf-8", "replace") for member in admitted},
    )


def _parts(proof: bytes) -> tuple[int, bytes, bytes]:
    """Returns the version of a member, what it says that it has seen, and its tag over both; nothing where it has
    written something else."""
    said = re.fullmatch(rb"(\d{1,9}) ([0-9a-f]+)", proof)
    if said is None or len(said[2]) != 4 * TAG_BYTES:
        return 0, b"", b""
    data = bytes.fromhex(said[2].decode())
    return int(said[1]), data[:TAG_BYTES], data[TAG_BYTES:]


def _collect(store: Store, kind: str, members: Collection[int], patience: timedelta) -> dict[int, bytes]:
    """Returns what these members have written; nothing for a member that has not written in time."""
    if not members:
        return {}
    keys = [f"{kind}/{member}" for member in members]
    try:
        store.wait(keys, patience)
        written = store.multi_get(keys)
    except RuntimeError:
        written = [store.get(key) if store.check([key]) else b"" for key in keys]
    return dict(zip(members, written, strict=True))
