"""Damaged, swapped and malicious checkpoints of a complete run."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from attacking.registry import Report, Verdict, attack
from attacking.scenes import Workshop

NOTICED = "the damage is reported in one line; an older whole checkpoint is used, or none"
NEWEST, OLDER = "step-20", "step-10"


def _data(part: Path) -> Path:
    """The largest file of a part."""
    return max((path for path in part.iterdir() if path.is_file()), key=lambda path: path.stat().st_size)


def _truncate(part: Path) -> None:
    file = _data(part)
    file.write_bytes(file.read_bytes()[:-1])


def _half_zero(part: Path) -> None:
    file = _data(part)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def _all_zero(part: Path) -> None:
    file = _data(part)
    file.write_bytes(bytes(file.stat().st_size))


def _missing(part: Path) -> None:
    _data(part).unlink()


def _swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _manifest(checkpoint: Path, change: Callable[[dict], object]) -> None:
    path = checkpoint / "manifest.json"
    found = json.loads(path.read_text())
    changed = change(found)
    path.write_text(json.dumps(found if changed is None else changed))


DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "the steps' global parts swapped": lambda root, rng: _swap(root / NEWEST / "global", root / OLDER / "global"),
    "the older global part in the newer": lambda root, rng: (
        shutil.rmtree(root / NEWEST / "global"),
        shutil.copytree(root / OLDER / "global", root / NEWEST / "global"),
    ),
    "two workers' parts swapped": lambda root, rng: _swap(root / NEWEST / "worker-000", root / NEWEST / "worker-001"),
    "one worker's part of the older step": lambda root, rng: _swap(
        root / NEWEST / "worker-001", root / OLDER / "worker-001"
    ),
    "half of a file zeros": lambda root, rng: _half_zero(root / NEWEST / "global"),
    "a file all zeros": lambda root, rng: _all_zero(root / NEWEST / "global"),
    "a file shorter by a byte": lambda root, rng: _truncate(root / NEWEST / "global"),
    "a file missing": lambda root, rng: _missing(root / NEWEST / "global"),
    "manifest missing": lambda root, rng: (root / NEWEST / "manifest.json").unlink(),
    "manifest empty": lambda root, rng: (root / NEWEST / "manifest.json").write_text(""),
    "manifest {}": lambda root, rng: (root / NEWEST / "manifest.json").write_text("{}"),
    "manifest without files": lambda root, rng: _manifest(root / NEWEST, lambda found: found.update(files={})),
    "manifest with paths out of it": lambda root, rng: _manifest(
        root / NEWEST, lambda found: found["files"]["global"].update({"../../../config.json": 1})
    ),
    "step-20 renamed step-2000": lambda root, rng: (root / NEWEST).rename(root / "step-2000"),
    "part.json empty": lambda root, rng: (root / NEWEST / "global" / "part.json").write_text(""),
}


@attack("checkpoints", must=NOTICED)
def damaged_checkpoints(workshop: Workshop, rng: random.Random) -> Report:
    """Damages the newest checkpoint of a complete run in 15 ways, and reads its weights and all of its parts."""
    report = Report()
    for name, damage in DAMAGES.items():
        root = workshop.unfinished()
        damage(root / "checkpoint", rng)
        verdict, note = read_all(workshop, root)
        report.add(verdict, f"{name}: {note}" if verdict in (Verdict.LOST, Verdict.HUNG) else "")
        shutil.rmtree(root.parent)
    return report


@attack("checkpoints", must="no flipped bit is loaded without a message")
def flipped_bits_in_checkpoints(workshop: Workshop, rng: random.Random) -> Report:
    """Flips one bit in a random file of the newest checkpoint, again and again, and reads it. White space in JSON files
    may change, as long as the same is read from them."""
    from muloco.runs.checkpoint_folder import CheckpointFolder

    report, silent = Report(), 0
    root = workshop.unfinished()
    folder = CheckpointFolder(root / "checkpoint")
    read = folder.read(int(NEWEST.removeprefix("step-")))
    files = sorted(path for path in (root / "checkpoint" / NEWEST).rglob("*") if path.is_file())
    for _ in range(max(10, workshop.mutations // 5)):
        file = rng.choice(files)
        whole = file.read_bytes()
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        verdict, _ = read_all(workshop, root)
        if verdict == Verdict.LOST and file.suffix == ".json" and folder.read(read.step) == read:
            verdict = Verdict.SURVIVED
        silent += verdict == Verdict.LOST
        report.add(verdict)
        file.write_bytes(whole)
    if silent:
        report.notes.append(f"{silent} flipped bits were loaded without a message")
    return report


def read_all(workshop: Workshop, root: Path) -> tuple[Verdict, str]:
    """Finds the newest checkpoint as `--resume` and `export` do, in this process."""
    from muloco.runs.checkpoint_folder import CheckpointFolder, NoWholeCheckpoint

    try:
        folder = CheckpointFolder(root / "checkpoint")
        newest, aside = folder.newest(folder.read_verified)
    except NoWholeCheckpoint as error:
        return Verdict.REFUSED, str(error)
    except Exception as error:
        return Verdict.LOST, f"{type(error).__name__}: {error}"
    if newest is None or newest.step == 10:
        return Verdict.REFUSED, "; ".join(aside)
    return Verdict.LOST, f"the checkpoint of step {newest.step} is accepted as whole"


def _poison(root: Path, proof: Path) -> None:
    """Puts a payload into every pickle of the newest checkpoint, and corrects its checksums and sizes."""
    checkpoint = root / "checkpoint" / NEWEST
    for part in (path for path in checkpoint.iterdir() if path.is_dir()):
        metadata = part / ".metadata"
        metadata.write_bytes(_with_payload(metadata.read_bytes(), proof))
    forge(checkpoint)


def _with_payload(original: bytes, proof: Path) -> bytes:
    """Returns a pickle that creates the file `proof` and then yields the same object as the original."""
    call = b"cos\nsystem\n(S'touch " + str(proof).encode() + b"'\ntR0"
    return b"\x80\x04" + call + original[2:]


def forge(checkpoint: Path) -> None:
    """Rewrites the sizes and checksums of all files, as the author of a malicious checkpoint would."""
    import hashlib

    def about(file: Path, known: object) -> object:
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if isinstance(known, int):
            return len(data)
        if isinstance(known, str):
            return digest
        if isinstance(known, dict):
            new = {"sha256": digest, "digest": digest, "bytes": len(data), "size": len(data)}
            return {key: new.get(key, value) for key, value in known.items()}
        if isinstance(known, list):
            return [len(data) if isinstance(value, int) else digest for value in known]
        return known

    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name in manifest["parts"]:
        own = checkpoint / name / "part.json"
        part = json.loads(own.read_text())
        part["files"] = {file: about(checkpoint / name / file, known) for file, known in part["files"].items()}
        own.write_text(json.dumps(part))
        manifest["files"][name] = part["files"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def _task(folder: Path) -> Path:
    """Returns a folder with a task for lm-eval and its data."""
    path = folder / "tasks"
    path.mkdir()
    (path / "text.jsonl").write_text('{"text": "import os"}\n')
    (path / "rolling.yaml").write_text(
        f"task: attacks_rolling\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {path}/text.jsonl}}}}\n"
        "test_split: test\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list: [{metric: word_perplexity}]\n"
    )
    return path


@attack("checkpoints", must="no code from the checkpoint runs: it would create a file")
def malicious_checkpoints(workshop: Workshop, rng: random.Random) -> Report:
    """Hands a checkpoint with a pickle that creates a file, and with fitting checksums, to export, generate, eval and
    --resume."""
    report = Report()
    for command in ("export", "generate", "eval", "resume"):
        root = workshop.unfinished()
        proof = root.parent / "proof"
        _poison(root, proof)
        arguments = {
            "export": ("export", root, root.parent / "exported"),
            "generate": ("generate", root, "--tokens", 2, "--prompt", "Once"),
            "eval": ("eval", root, "--tasks", "attacks_rolling", "--include-path", _task(root.parent)),
            "resume": ("train", root / "config.json", "--resume", "--training.steps", 25),
        }[command]
        done = workshop.command(*arguments)
        said = (done.stdout + done.stderr).strip()
        last = said.splitlines()[-1] if said else ""
        if proof.exists():
            report.add(Verdict.LOST, f"{command}: the code in the checkpoint was run (status {done.returncode})")
        elif done.returncode == 124:
            report.add(Verdict.HUNG, f"{command}: {last}")
        elif "Traceback" in said:
            report.add(Verdict.LOST, f"{command}: nothing was run, but it ends with a traceback: {last}")
        elif done.returncode == 0 and command != "resume":
            report.add(Verdict.LOST, f"{command}: the checkpoint was accepted, status 0: {last}")
        else:
            report.add(Verdict.REFUSED, f"{command}: {last}")
        shutil.rmtree(root.parent)
    return report
