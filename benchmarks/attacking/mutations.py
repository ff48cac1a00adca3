"""Mutated files, headers and payloads: each is read, or refused with the error that its reader documents."""

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from attacking.registry import Report, Verdict, attack
from attacking.scenes import Workshop

ONE_ERROR = "it is read, or refused with an error that says what is wrong; no other error is raised"


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One of nine changes: bits, bytes, pieces cut out, doubled or swapped, numbers replaced, ends cut off."""
    if not data:
        return rng.randbytes(8)
    changed, kind = bytearray(data), rng.randrange(9)
    place = rng.randrange(len(changed))
    end = min(len(changed), place + rng.randint(1, 32))
    if kind == 0:
        changed[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        changed[place:end] = rng.randbytes(end - place)
    elif kind == 2:
        del changed[place:end]
    elif kind == 3:
        changed[place:place] = changed[place:end] * rng.randint(1, 4)
    elif kind == 4:
        changed[place:end] = bytes(end - place)
    elif kind == 5:
        del changed[place:]
    elif kind == 6:
        changed += rng.randbytes(rng.randint(1, 64))
    elif kind == 7:
        digits = [index for index, byte in enumerate(changed) if chr(byte).isdigit()] or [place]
        changed[rng.choice(digits)] = ord(rng.choice("-0123456789eE.xn"))
    else:
        words = (b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b"99999999999999999999", b"true")
        changed[place:end] = rng.choice(words)
    return bytes(changed)


def _tried(report: Report, what: str, action: Callable[[], object], allowed: tuple[type[BaseException], ...]) -> None:
    try:
        action()
    except allowed:
        report.add(Verdict.REFUSED)
    except Exception as error:
        note = f"{what}: {type(error).__name__}: {str(error)[:80]}"
        report.add(Verdict.LOST, note if len(report.notes) < 8 else "")
    else:
        report.add(Verdict.SURVIVED)


@attack("mutations", must=ONE_ERROR)
def mutated_files(workshop: Workshop, rng: random.Random) -> Report:
    """Mutates config.json, manifest, part.json, metrics, commit log and attempts of a complete run, and reads each of
    them."""
    from muloco.errors import UserError
    from muloco.runs.attempts import next_attempt
    from muloco.runs.checkpoint_folder import CheckpointFolder, NoWholeCheckpoint
    from muloco.runs.commits import Progress
    from muloco.runs.folder import RunFolder, read_metrics
    from muloco.settings.load import load_config

    report, root = Report(), workshop.unfinished()
    folder, checkpoints = RunFolder(root), CheckpointFolder(root / "checkpoint")
    newest = root / "checkpoint" / "step-20"
    progress = Progress(folder, worker=0, workers=2, attempt=1)
    readers: list[tuple[Path, Callable[[], object], tuple[type[BaseException], ...]]] = [
        (folder.config, lambda: load_config(str(folder.config)), (UserError,)),
        (newest / "manifest.json", checkpoints.newest, (NoWholeCheckpoint,)),
        (newest / "global" / "part.json", checkpoints.newest, (NoWholeCheckpoint,)),
        (folder.metrics(0), lambda: read_metrics(folder), ()),
        (folder.commits(0), progress.reached, ()),
        (folder.commits(0), partial(progress.passed, 15, 0), ()),
        (folder.attempts, partial(next_attempt, folder), ()),
    ]
    for path, reader, allowed in readers:
        whole = path.read_bytes()
        for _ in range(workshop.mutations):
            path.write_bytes(mutate(whole, rng))
            _tried(report, path.name, reader, allowed)
        path.write_bytes(whole)
    shutil.rmtree(root.parent)
    return report


@attack("mutations", must=ONE_ERROR)
def mutated_headers(workshop: Workshop, rng: random.Random) -> Report:
    """Mutates the header that workers send each other before a payload, and parses it."""
    from muloco.outer.protocol.header import Header, Unreadable, read_header
    from muloco.outer.protocol.terms import Terms

    terms = Terms(
        workers=3, sync_interval=5, delay=1, fragments=2, layout="12", settings=(("compression.kind", "none"),)
    )
    header = Header(
        run="run",
        worker=1,
        terms=terms,
        step=20,
        fragment=0,
        weight=5,
        finite=True,
        digest=-5,
        data_position="[1, 2]",
        commit_hash="0123456789abcdef",
    )
    report, whole = Report(), header.to_bytes()
    for _ in range(workshop.mutations):
        data = mutate(whole, rng)
        _tried(report, "header", partial(read_header, data), ())
        if isinstance(read_header(data), Unreadable):
            report.counts[Verdict.SURVIVED] -= 1
            report.counts[Verdict.REFUSED] += 1
    return report


@attack("mutations", must="a payload of the right length is decoded, any other is refused with ValueError")
def mutated_payloads(workshop: Workshop, rng: random.Random) -> Report:
    """Mutates payloads of every codec, and decodes them."""
    import torch

    from muloco.outer.codecs import KINDS, default_codec

    report, shape = Report(), (64, 48)
    piece = torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    for kind in KINDS:
        codec = default_codec(kind)
        whole = codec.encode(piece).numpy().tobytes()
        for _ in range(workshop.mutations):
            payload = torch.frombuffer(bytearray(mutate(whole, rng)), dtype=torch.uint8)
            _tried(report, kind, partial(codec.decode, payload, shape), (ValueError,))
    return report
