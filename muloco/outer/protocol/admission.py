"""Admission to a new group of workers: only workers that hold the run's secret and use the same version of the
protocol are let in.

The lighthouse lets every process into a quorum. Therefore, before the members of a quorum connect, each one proves to
the others, through the store that they share, that it holds the secret, and states its version. A member that cannot
prove it, or uses another version (a stranger), is left out, and so is a member that does not answer in time (a silent
one). The others connect without them.

For this, each member writes random bytes into the store, reads the random bytes of all others, and writes a tag over
all of them. Because the bytes are new each time, nothing that was written for an earlier group is accepted again.
Members that have read the same bytes and admitted the same others derive the same key, and a group name from it.
Members that have not, because one was too late for some of them, do not connect, and their round fails.
"""

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import Store

from muloco.outer.protocol.authentication import NONCE_BYTES, TAG_BYTES, Key
from muloco.outer.protocol.header import PROTOCOL
from muloco.outer.protocol.transport import TransportError

DOUBTFUL = timedelta(seconds=5)
"""Longest wait for a member that is not expected to answer, because it was silent the last time."""


@dataclass(frozen=True, kw_only=True)
class Admission:
    """The result of `admit`: which members of a quorum form the group, and the group's key."""

    key: Key
    """The key of the new group, which only its members can derive."""
    name: str
    """The name of the new group, derived from its key: 16 hexadecimal digits."""
    admitted: tuple[int, ...]
    """Ranks in the quorum of the members of the group, this member included."""
    strangers: tuple[int, ...]
    """Ranks in the quorum of the members that do not hold the secret, or use another version of the protocol."""
    versions: dict[int, int]
    """Version of the protocol of each stranger that holds the secret, by rank."""
    silent: tuple[int, ...]
    """Ranks in the quorum of the members that did not answer in time."""
    remarks: dict[int, str]
    """Texts that the admitted members have sent along with their random bytes, by rank (see `admit`)."""


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
    """Finds out which members of a quorum hold the secret of the run.

    Args:
        store: a store that all members read and write, and that contains nothing else.
        key: of the run.
        rank: of this member in the quorum.
        size: number of members.
        patience: the longest wait for each member's next entry in the store.
        remark: a text that this member sends to the others along with its random bytes, and that is covered by the tag.
        doubtful: ranks of members for which the wait is at most `DOUBTFUL`, because they were silent the last time.

    Raises:
        TransportError: another holder of the secret has read different random bytes, or this member's entry in the
            store was overwritten.
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
            raise TransportError(f"member {member} of {size} has met different members than this worker has")
        elif proof:
            admitted.append(member)
    if rank not in admitted or nonces[rank] != own.encode():  # old random bytes would yield an old key again
        raise TransportError("another process has overwritten the entry of this worker in the store of its group")
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
    """Returns the version of a member, the digest of what it has read, and its tag; zero and two empty values if the
    entry is malformed."""
    said = re.fullmatch(rb"(\d{1,9}) ([0-9a-f]+)", proof)
    if said is None or len(said[2]) != 4 * TAG_BYTES:
        return 0, b"", b""
    data = bytes.fromhex(said[2].decode())
    return int(said[1]), data[:TAG_BYTES], data[TAG_BYTES:]


def _collect(store: Store, kind: str, members: Collection[int], patience: timedelta) -> dict[int, bytes]:
    """Returns the entries of these members, by rank; empty for a member that has not written one in time."""
    if not members:
        return {}
    keys = [f"{kind}/{member}" for member in members]
    try:
        store.wait(keys, patience)
        written = store.multi_get(keys)
    except RuntimeError:
        written = [store.get(key) if store.check([key]) else b"" for key in keys]
    return dict(zip(members, written, strict=True))
