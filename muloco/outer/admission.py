"""Who is let into a new group of workers: those that hold the run's secret.

The lighthouse lets everybody into a quorum. So before its members connect, each one shows the others in their store
that it holds the secret. A stranger is left out, and so is a member that says nothing; the others connect without them.

A member writes random bytes, reads those of all others, and then writes a tag over all of them. So no answer of an
earlier meeting serves a second time. Members that have met the same others connect, under a name that follows from
their common key; where they have not (one of them was too late for another one), they do not find each other, and
their round fails.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import Store

from muloco.outer.authentication import NONCE_BYTES, TAG_BYTES, Key
from muloco.outer.transport import TransportError


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
    """Those that do not hold the secret."""
    silent: tuple[int, ...]
    """Those that have said nothing in time."""


def admit(store: Store, key: Key, rank: int, size: int, patience: timedelta) -> Admission:
    """Meets the members of a quorum.

    Args:
        store: all members read and write it, and nothing else is there.
        key: of the run.
        rank: of this member in the quorum.
        size: number of members.
        patience: how long to wait for what each member writes.

    Raises:
        TransportError: another holder of the secret has met other members than this one.
        RuntimeError: the store does not answer.
    """
    store.set(f"nonce/{rank}", secrets.token_hex(NONCE_BYTES))
    nonces = _collect(store, "nonce", range(size), patience)
    present = [member for member, nonce in enumerate(nonces) if nonce]
    seen = key.tag("seen", *nonces)
    store.set(f"proof/{rank}", (seen + key.tag("admission", rank, seen)).hex())
    proofs = dict(zip(present, _collect(store, "proof", present, patience), strict=True))
    admitted, strangers = [], []
    for member, proof in proofs.items():
        theirs, tag = _halves(proof)
        if proof and not key.holds(tag, "admission", member, theirs):
            strangers.append(member)
        elif proof and theirs != seen:
            raise TransportError(f"member {member} of {size} has met other members than this worker has")
        elif proof:
            admitted.append(member)
    if rank not in admitted:
        raise TransportError("somebody else has overwritten what this worker wrote into the store of its group")
    common = key.derive("group", seen, *admitted)
    return Admission(
        key=common,
        name=common.tag("name").hex()[:16],
        admitted=tuple(admitted),
        strangers=tuple(strangers),
        silent=tuple(member for member in range(size) if not proofs.get(member)),
    )


def _halves(proof: bytes) -> tuple[bytes, bytes]:
    """Returns what a member says that it has seen, and its tag; nothing where it has written something else."""
    try:
        data = bytes.fromhex(proof.decode())
    except ValueError:
        return b"", b""
    return data[:TAG_BYTES], data[TAG_BYTES:]


def _collect(store: Store, kind: str, members: Sequence[int], patience: timedelta) -> list[bytes]:
    """Returns what these members have written; nothing for a member that has not written in time."""
    keys = [f"{kind}/{member}" for member in members]
    try:
        store.wait(keys, patience)
    except RuntimeError:
        return [store.get(key) if store.check([key]) else b"" for key in keys]
    return store.multi_get(keys)
