"""The folder of a sweep: its scripts, and `sweep.json`, which says what was written and submitted.

    FOLDER/  NAME.sh ...  sweep.json

sweep.json holds what the sweep was asked to run with and, by the name of a job, the hash of the script that it wrote
last, and its submissions in order.
"""

import difflib
import hashlib
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from muloco.errors import UserError
from muloco.files import write_whole
from muloco.runs.folder import read_json, write_json
from muloco.sweeps.settings import Settings

SCHEMA = 1


def default_folder(file: Path) -> Path:
    """The folder of the sweep in a file, where none is named: `generated_job_files/NAME` next to the file."""
    return file.parent / "generated_job_files" / file.stem


@dataclass
class Submission:
    """One job of SLURM."""

    id: str
    time: str
    script: str
    """Hash of what was submitted."""
    log: str = ""
    """File of its output."""
    ended: str = ""
    """State in which it was last seen after its end, such as FAILED."""
    exit_status: int = 0


@dataclass
class Record:
    """What the sweep has done for a job."""

    written: str = ""
    """Hash of the script that it wrote last."""
    submissions: list[Submission] = field(default_factory=list)

    @property
    def tries(self) -> list[Submission]:
        """Submissions of the script as it is now."""
        return [submission for submission in self.submissions if submission.script == self.written]


class SweepFolder:
    def __init__(self, root: Path):
        self.root = root
        self._state = root / "sweep.json"
        self.records: dict[str, Record] = {}
        self.settings = Settings()
        if self._state.exists():
            try:
                stored = read_json(self._state)
                if stored.get("schema") != SCHEMA:
                    raise ValueError(f"{self._state} has schema {stored.get('schema')}; this muloco reads {SCHEMA}")
                self._restore(stored)
            except ValueError as error:
                raise UserError(str(error)) from None
            except (KeyError, TypeError, AttributeError) as error:  # JSON of another shape
                raise UserError(f"{self._state} is not what a sweep wrote: {error!r}") from None

    def _restore(self, stored: dict[str, Any]) -> None:
        self.settings = Settings(**stored["settings"])
        for name, record in stored["jobs"].items():
            submissions = [Submission(**submission) for submission in record["submissions"]]
            self.records[name] = Record(written=record["written"], submissions=submissions)

    def script(self, name: str) -> Path:
        return self.root / f"{name}.sh"

    def record(self, name: str) -> Record:
        return self.records.setdefault(name, Record())

    def save(self) -> None:
        """Writes sweep.json, whole or not at all."""
        jobs = {name: asdict(record) for name, record in self.records.items()}
        write_json(self._state, {"schema": SCHEMA, "settings": asdict(self.settings), "jobs": jobs})

    def write(self, name: str, text: str) -> None:
        """Writes a script; `save` is left to the caller. Raises UserError if another script is there, which somebody
        else has written or changed, or which was submitted; the message says what differs."""
        path, record = self.script(name), self.record(name)
        if path.exists():
            present = path.read_text()
            if present == text:
                record.written = _hash(text)
                return
            if _hash(present) != record.written:
                raise UserError(
                    f"{path} is not as this sweep wrote it, and stays: {_difference(present, text)} "
                    "(delete it or choose another --folder)"
                )
            if record.tries:
                raise UserError(
                    f"{path} was submitted as job {record.tries[-1].id}, and stays: {_difference(present, text)} "
                    "(delete it to submit the new one, or choose another --folder)"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
        path.chmod(0o755)
        record.written = _hash(text)

    def submitted(self, name: str, id_: str, *, log: str) -> None:
        """Records at once that the script of a job was submitted."""
        record = self.record(name)
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        record.submissions.append(Submission(id=id_, time=now, script=record.written, log=log))
        self.save()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _difference(before: str, after: str) -> str:
    """The first lines that differ, in one line."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    changed = [line for line in lines if not line.startswith("@@")]
    shown = "; ".join(changed[:4])
    return f"it would change: {shown}" + (f"; and {len(changed) - 4} lines more" if len(changed) > 4 else "")
