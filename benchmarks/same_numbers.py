"""Proves that a change of the code changes no number: the same short trainings with two commits, to the last bit.

    python benchmarks/same_numbers.py BEFORE              # the working tree, uncommitted changes included, against it
    python benchmarks/same_numbers.py BEFORE AFTER --quick
    python benchmarks/same_numbers.py --record FILE COMMIT
    python benchmarks/same_numbers.py FILE AFTER

BEFORE and AFTER are anything that git takes for a commit, `.` for the working tree, or the FILE of a record. Each run
goes through the command line, with the files of the commit as PYTHONPATH, and is read from its metrics files, so that
commits with other modules, functions or classes can be compared. For every worker these values must be the same: the
digest of the anchor at each sync, the training loss at each step, and the held-out losses. They depend on the machine
and on the version of torch, so that a record is for the machine it was made on. With `--only`, runs are
added to a record of the same commit, in place of those of the same names.

The exit status is 0 where all numbers are the same, 1 where one differs or a run fails, and 2 for bad input.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
CONFIG = "config/laptop/muloco.py"
THREADS = 1
RUN_SECONDS = 900
"""A run that takes longer has failed."""
STEPS = 22
CHECKPOINT = 13
"""Step in the middle of a window from which a run is resumed."""
DIGEST = "digest of fragment"
RESUMED = "resumed"
ORDER = ("loss", "local_validation_loss", DIGEST, "validation_loss", RESUMED)
"""In which order the values of a step come about."""

TINY = {
    "model.flavor": "tiny",
    "training.seq_len": 64,
    "training.global_batch_size": 8,
    "training.local_batch_size": 2,
    "training.steps": STEPS,
    "validation.sequences": 16,
    "validation.freq": 10,
    "lr_scheduler.warmup_steps": 2,
    "metrics.tensorboard": False,
    "metrics.log_freq": 1,
    "checkpoint.enable": False,
    "fault_tolerance.transport": "in_process",
    "fault_tolerance.sync_steps": 5,
    "fault_tolerance.heartbeat_timeout_seconds": 60,
}
"""The heartbeat allows for a busy machine: a worker that counts as dead would change the numbers."""
PROCESSES = {"fault_tolerance.transport": "torchft"}
ALONE = {"fault_tolerance.group_size": 1, **PROCESSES}
STREAMING = {
    "fault_tolerance.num_fragments": 2,
    "fault_tolerance.fragment_sync_delay": 1,
    "fault_tolerance.fragment_update_alpha": 0.5,
}
ADAMW = {"optimizer.name": "AdamW", "optimizer.lr": 0.003}
MODULES = ["tok_embeddings,layers.1", "layers.0", "norm,lm_head"]
GPA = {
    "optimizer.name": "GPA",
    "optimizer.lr": 0.003,
    "outer_optimizer.lr": "None",
    "outer_optimizer.momentum": "None",
}
WORDS = "words.jsonl"
"""A text file that is written where the runs are."""


@dataclass(frozen=True)
class Plan:
    """A run."""

    settings: Mapping[str, object] = field(default_factory=dict)
    """Fields of the config, besides those of `TINY`. Several values are a list."""
    quick: bool = False
    """Whether it is among the runs of `--quick`."""
    syncs: bool = True
    """Whether there is an outer loop."""
    then: Mapping[str, object] | None = None
    """Fields with which the run is resumed after its end; None: it is not."""
    forgets: bool = False
    """Whether the checkpoint of the last step is deleted before the resume, so that an earlier one is taken."""

    def fields(self, resume: bool = False) -> dict[str, object]:
        return {**TINY, **self.settings, **((self.then or {}) if resume else {})}


def codec(kind: str, **fields: object) -> dict[str, object]:
    return {"compression.kind": kind, **{f"compression.{name}": value for name, value in fields.items()}}


PLANS: dict[str, Plan] = {
    "muloco": Plan(quick=True),
    "muloco-processes": Plan(PROCESSES, quick=True),
    "muloco-4-workers": Plan({"fault_tolerance.group_size": 4}),
    "diloco": Plan({**ADAMW, "fault_tolerance.group_size": 3, "training.global_batch_size": 12}, quick=True),
    "diloco-processes": Plan({**ADAMW, **PROCESSES, "fault_tolerance.group_size": 3, "training.global_batch_size": 12}),
    "local-sgd": Plan(
        {
            "fault_tolerance.semi_sync_method": "local_sgd",
            "outer_optimizer.lr": "None",
            "outer_optimizer.momentum": "None",
        }
    ),
    "gpa": Plan(GPA, quick=True),
    "gpa-alone": Plan({**ALONE, **GPA}, syncs=False),
    "muon-alone": Plan({**ALONE, "fault_tolerance.semi_sync_method": "none"}, syncs=False, quick=True),
    "muon-options": Plan(
        {
            "optimizer.orthogonalization": "polar_express",
            "optimizer.orthogonalization_steps": 6,
            "optimizer.adjust_lr": "rms_norm",
            "optimizer.nesterov": True,
        }
    ),
    "sgd": Plan({"optimizer.name": "SGD", "optimizer.lr": 0.1}),
    "lion": Plan(
        {
            "optimizer.embedding.rule": "lion",
            "optimizer.embedding.lr_factor": 0.1,
            "optimizer.cautious_weight_decay": True,
            "optimizer.weight_decay": 0.1,
        }
    ),
    "normuon": Plan({"optimizer.matrix.rule": "normuon", "optimizer.adjust_lr": "rms_norm"}),
    "outer-adamw": Plan(
        {"outer_optimizer.class_name": "adamw", "outer_optimizer.lr": 0.01, "outer_optimizer.schedule": "linear"}
    ),
    "outer-muon": Plan(
        {"outer_optimizer.class_name": "muon", "outer_optimizer.lr": 0.05, "outer_optimizer.schedule": "cosine"},
        quick=True,
    ),
    "streaming": Plan(STREAMING, quick=True),
    "modules": Plan(
        {"fault_tolerance.module_fqns_per_model_fragment": MODULES, "fault_tolerance.sync_steps": 6},
    ),
    "bf16": Plan(codec("bf16")),
    "linear-rows": Plan(codec("linear", bits=4, granularity="row", skip_embeddings=True)),
    "statistical": Plan(codec("statistical", bits=4)),
    "lloyd-max-feedback": Plan(codec("lloyd_max", bits=2, error_feedback=True), quick=True),
    "topk-gather": Plan(codec("topk", fraction=0.1, reduce="gather", error_feedback=True)),
    "topk-quantized": Plan(codec("topk", fraction=0.2, values="linear", bits=4) | {"fault_tolerance.group_size": 4}),
    "ternary": Plan(codec("ternary", error_feedback=True)),
    "powersgd-resumed": Plan(
        {
            **codec("powersgd", rank=2, error_feedback=True),
            "checkpoint.enable": True,
            "checkpoint.interval": CHECKPOINT,
        },
        then={},
        forgets=True,
    ),
    "requantize": Plan(codec("linear", bits=4, reduce="requantize", skip_norms=False), quick=True),
    "streaming-compressed-processes": Plan(
        {**STREAMING, **PROCESSES, **codec("statistical", bits=2, error_feedback=True)}
    ),
    "fsdp-compressed": Plan(
        {**PROCESSES, **codec("linear", bits=4), "parallelism.data_parallel_shard_degree": 2}, quick=True
    ),
    "hsdp-alone": Plan(
        {
            **ALONE,
            "parallelism.data_parallel_shard_degree": 2,
            "parallelism.data_parallel_replicate_degree": 2,
            "training.precision": "bfloat16",
        }
    ),
    "tensor-parallel-alone": Plan({**ALONE, "parallelism.tensor_parallel_degree": 2}),
    "autocast-recomputed": Plan({"training.precision": "autocast", "activation_checkpoint.mode": "full"}),
    "predict-bos": Plan({"data.predict_bos": True}),
    "mixture": Plan({"data.corpus": ["embedded", "embedded"], "data.weights": [1, 3]}),
    "mixture-streamed": Plan(
        {
            "data.corpus": ["embedded", WORDS],
            "data.weights": [2, 1],
            "data.prepare": False,
            "data.shuffle_buffer": 16,
            "data.predict_bos": True,
        }
    ),
    "resumed-on-the-way": Plan(
        {
            **STREAMING,
            **codec("statistical", bits=2, error_feedback=True),
            "fault_tolerance.sync_steps": 4,
            "checkpoint.enable": True,
            "checkpoint.interval": CHECKPOINT,
        },
        then={},
        forgets=True,
        quick=True,
    ),
    "extended": Plan(
        {"checkpoint.enable": True, "training.steps": CHECKPOINT, "lr_scheduler.total_steps": STEPS},
        then={"training.steps": STEPS},
    ),
}


class BadInput(Exception):
    """The user's request cannot be carried out; the message says why."""


class RunFailed(Exception):
    """A run gave no numbers; the message says why."""


Numbers = dict[str, dict[str, dict[str, Any]]]
"""Values by worker, step and key; the numbers of workers and steps are text, as in JSON."""


@dataclass(frozen=True)
class Result:
    """The results of one run."""

    numbers: Numbers = field(default_factory=dict)
    settings: dict[str, object] | None = None
    """Settings of its plan, which tell whether a recorded run is the same one."""
    seconds: float = 0.0
    failure: str | None = None

    @property
    def syncs(self) -> int:
        """Rounds of the outer loop, of which each fragment has its own."""
        steps = [values for worker in list(self.numbers.values())[:1] for values in worker.values()]
        return sum(key.startswith(DIGEST) for values in steps for key in values)


def read_numbers(folder: Path) -> Numbers:
    """The values of a run that must not change. Where an attempt repeats a step, the last line counts.

    Raises:
        RunFailed: the run has no metrics, or a worker was lost meanwhile.
    """
    numbers: Numbers = {}
    fewest: int | None = None
    for path in sorted(folder.glob("metrics/*.jsonl")):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            values = numbers.setdefault(str(line["worker"]), {}).setdefault(str(line["step"]), {})
            values.update({key: line[key] for key in ORDER if key in line})
            if line.get("event") == "sync":
                values[f"{DIGEST} {line['fragment']}"] = line["digest"]
                fewest = min(line["participants"], fewest or line["participants"])
            if line.get("event") == "resume":
                values[RESUMED] = True
    numbers = {worker: {step: found for step, found in steps.items() if found} for worker, steps in numbers.items()}
    if not any(numbers.values()):
        raise RunFailed(f"there are no numbers in {folder.name}/metrics")
    restarts = json.loads((folder / "summary.json").read_text())["restarts"]
    if restarts or (fewest is not None and fewest < len(numbers)):
        raise RunFailed("a worker was lost or late, as on a machine that is too busy: the numbers prove nothing")
    return numbers


@dataclass(frozen=True)
class Difference:
    """Where two runs part: text for both values."""

    worker: str
    step: str
    key: str
    before: str
    after: str

    def __str__(self) -> str:
        where = f"worker {self.worker}, step {self.step}, {self.key}"
        return f"{where}: {self.before} before, {self.after} after"


def first_difference(before: Numbers, after: Numbers) -> Difference | None:
    """The first in the order of training: by step, key and worker."""
    places = {
        (int(step), rank_of(key), key, int(worker))
        for numbers in (before, after)
        for worker, steps in numbers.items()
        for step, values in steps.items()
        for key in values
    }
    for step, _, key, worker in sorted(places):
        one, other = (
            json.dumps(values[key]) if key in (values := numbers.get(str(worker), {}).get(str(step), {})) else "missing"
            for numbers in (before, after)
        )
        if one != other:
            return Difference(str(worker), str(step), key, one, other)
    return None


def rank_of(key: str) -> int:
    return next((rank for rank, known in enumerate(ORDER) if key == known or key.startswith(known)), len(ORDER))


def verdict(before: Result | None, after: Result | None) -> str | None:
    """None where the two are the same run with the same numbers; else what is not."""
    for side, result in (("BEFORE", before), ("AFTER", after)):
        if result is None:
            return f"{side} has no such run"
        if result.failure:
            return f"{side} failed: {result.failure}"
    assert before is not None and after is not None
    if before.settings != after.settings:
        return "the record is of a run with other settings; record it again"
    difference = first_difference(before.numbers, after.numbers)
    return None if difference is None else f"differs at {difference}"


class Record:
    """Numbers in a file."""

    def __init__(self, path: Path):
        """
        Raises:
            BadInput: it cannot be read or is no record.
        """
        try:
            held = json.loads(path.read_text())
            self.machine: dict[str, Any] = held["machine"]
            self.commit: str = held["commit"]
            self.results = {
                name: Result(run["numbers"], run["settings"], run["seconds"]) for name, run in held["runs"].items()
            }
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadInput(f"{path} is no record; make one with --record FILE COMMIT") from None

    def names(self) -> list[str]:
        return list(self.results)

    def result(self, name: str) -> Result | None:
        return self.results.get(name)

    def stop(self) -> None:
        """There is nothing to end."""


class Code:
    """A folder with the product of one commit, in which runs are made."""

    def __init__(self, folder: Path, outputs: Path):
        self.folder, self.outputs = folder, outputs
        self.machine = machine()
        self._running: set[subprocess.Popen] = set()

    def names(self) -> list[str]:
        return list(PLANS)

    def result(self, name: str) -> Result | None:
        """Trains it."""
        if name not in PLANS:
            return None
        plan, began = PLANS[name], time.monotonic()
        settings = recorded_settings(plan)
        try:
            self._train(name, plan.fields())
            if plan.then is not None:
                if plan.forgets:
                    (self.outputs / name / "summary.json").unlink()
                    shutil.rmtree(self.outputs / name / "checkpoint" / f"step-{STEPS}")
                self._train(name, plan.fields(resume=True), "--resume")
            result = Result(read_numbers(self.outputs / name), settings, round(time.monotonic() - began, 1))
            if plan.syncs != (result.syncs > 0):
                raise RunFailed(f"{result.syncs} syncs in its metrics")
        except (RunFailed, OSError, KeyError, ValueError) as error:
            return Result(failure=f"{error!r}" if isinstance(error, KeyError) else f"{error}", settings=settings)
        return result

    def stop(self) -> None:
        """Ends the runs that are on their way."""
        for process in list(self._running):
            process.terminate()

    def _train(self, name: str, fields: Mapping[str, object], *flags: str) -> None:
        command = [sys.executable, "-m", "muloco", "train", CONFIG, *flags]
        for key, value in {**fields, "run.name": name, "run.outputs": self.outputs}.items():
            values = value if isinstance(value, list) else [value]
            command += [f"--{key}", *(str(self.outputs / WORDS if one == WORDS else one) for one in values)]
        log = self.outputs / f"{name}.log"
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": str(THREADS)}
        with log.open("a") as file:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=file, stderr=file)
        self._running.add(process)
        try:
            status = process.wait(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise RunFailed(f"it did not end within {RUN_SECONDS} s") from None
        finally:
            self._running.discard(process)
        if status:
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise RunFailed(f"status {status}: {said[-1] if said else 'it said nothing'}")


def write_words(path: Path) -> None:
    """A text file of a few words, always the same one."""
    draw, words = random.Random(0), ["the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "far"]
    texts = [" ".join(draw.choices(words, k=draw.randint(20, 200))) for _ in range(300)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def recorded_settings(plan: Plan) -> dict[str, object]:
    """Plain JSON of a plan."""
    return json.loads(json.dumps({"first": plan.fields(), "then": plan.then, "forgets": plan.forgets}))


def machine() -> dict[str, Any]:
    """Returns everything that the bits depend on besides the code."""
    import torch

    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return {
            "cpu": named[0] if named else platform.processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "torch": importlib.metadata.version("torch"),
            "python": platform.python_version(),
            "threads": THREADS,
        }
    raise BadInput("/proc/cpuinfo cannot be read, so that a record could not name its machine")


def git(*words: str) -> str:
    """
    Raises:
        BadInput: git refuses.
    """
    done = subprocess.run(["git", "-C", str(CHECKOUT), *words], capture_output=True, text=True)
    if done.returncode:
        raise BadInput(f"git {words[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def commit_of(named: str) -> str:
    """
    Raises:
        BadInput: there is none of this name.
    """
    try:
        return git("rev-parse", "--verify", "--quiet", f"{named}^{{commit}}").strip()
    except BadInput:
        raise BadInput(
            f"{named} is neither a commit that git knows, nor the file of a record, nor . for here"
        ) from None


@contextlib.contextmanager
def code_of(named: str, side: str, outputs: Path) -> Iterator[Code]:
    """The files of a commit, or a copy of the working tree, in a folder for as long as it is needed."""
    (outputs / side).mkdir(parents=True, exist_ok=True)
    write_words(outputs / side / WORDS)
    with tempfile.TemporaryDirectory(prefix=f"same-numbers-{side}-") as root:
        folder = Path(root) / "muloco"
        if named == ".":
            names = git("ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
            for name in {name for name in names if name and (CHECKOUT / name).is_file()}:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / name, folder / name)
            yield Code(folder, outputs / side)
            return
        commit = commit_of(named)
        packed = subprocess.run(["git", "-C", str(CHECKOUT), "archive", commit], stdout=subprocess.PIPE, check=True)
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
            files.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        yield Code(folder, outputs / side)


Source = Record | Code


def chosen_names(sources: Sequence[Source], *, only: Sequence[str] | None, quick: bool) -> list[str]:
    """
    Raises:
        BadInput: there is no run of a name that was asked for.
    """
    known = list(dict.fromkeys(name for source in reversed(sources) for name in source.names()))
    if unknown := [name for name in only or () if name not in known]:
        raise BadInput(f"there is no run {unknown[0]}; there are {', '.join(known)}")
    if only:
        return list(dict.fromkeys(only))
    return [name for name, plan in PLANS.items() if plan.quick] if quick else known


@contextlib.contextmanager
def working(sources: Sequence[Source], jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for runs. When this command is interrupted, so are the runs."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for source in sources:
                source.stop()
            raise


def compare(before: Source, after: Source, names: Sequence[str], *, jobs: int, say: Callable[[str], None]) -> int:
    """Says for each run whether it is the same, and then for all. Returns the exit status."""
    other_machine = before.machine != after.machine
    if other_machine:
        say(f"BEFORE was made on another machine, where bits may differ: {before.machine}; AFTER: {after.machine}")
    rows: list[tuple[str, ...]] = [("run", "workers", "syncs", "s before", "s after", "numbers")]
    with working((before, after), jobs) as pool:
        work = [(pool.submit(before.result, name), pool.submit(after.result, name)) for name in names]
        for name, (one, other) in zip(names, work, strict=True):
            first, second = one.result(), other.result()
            found = verdict(first, second)
            shown = second or first or Result()
            say(f"{name}: {shown.syncs} syncs, {found or 'same'}")
            seconds = [f"{result.seconds:.0f}" if result else "" for result in (first, second)]
            kind = "same" if found is None else "DIFFER"
            rows.append((name, str(len(shown.numbers)), str(shown.syncs), *seconds, kind))
    table(rows, say)
    differing = sum(row[-1] != "same" for row in rows[1:])
    say(f"{len(names) - differing} of {len(names)} runs have the same numbers")
    if differing and other_machine:
        say("the machine may be the reason: compare two commits here instead")
    return int(differing > 0)


def record(code: Code, commit: str, names: Sequence[str], path: Path, *, jobs: int, say: Callable[[str], None]) -> int:
    """Writes the numbers of runs into a file, beside those of the same commit and machine that it holds already.
    Returns the exit status.

    Raises:
        BadInput: the file holds something else.
    """
    held = Record(path) if path.exists() else None
    if held and (held.commit, held.machine) != (commit, code.machine):
        raise BadInput(f"{path} is a record of commit {held.commit} on {held.machine}; choose another file")
    results = dict(held.results) if held else {}
    failed = 0
    rows: list[tuple[str, ...]] = [("run", "workers", "syncs", "s")]
    with working([code], jobs) as pool:
        for name, result in zip(names, pool.map(code.result, names), strict=True):
            assert result is not None
            say(f"{name}: {result.syncs} syncs, {result.failure or f'{result.seconds:.0f} s'}")
            rows.append((name, str(len(result.numbers)), str(result.syncs), f"{result.seconds:.0f}"))
            failed += result.failure is not None
            if not result.failure:
                results[name] = result
    table(rows, say)
    write_record(path, commit, code.machine, results)
    if failed:
        say(f"{failed} runs failed and are not recorded")
    return int(failed > 0)


def write_record(path: Path, commit: str, machine: Mapping[str, Any], results: Mapping[str, Result]) -> None:
    """Writes what `Record` reads."""
    about = "For the machine it was made on alone: another CPU, torch or Python may give other bits."
    names = sorted(results, key=lambda name: list(PLANS).index(name) if name in PLANS else len(PLANS))
    runs = {
        name: {"settings": results[name].settings, "seconds": results[name].seconds, "numbers": results[name].numbers}
        for name in names
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {"about": about, "commit": commit, "machine": machine, "runs": runs}
    path.write_text(json.dumps(held, indent=1) + "\n")


def table(rows: Sequence[Sequence[str]], say: Callable[[str], None]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    say("")
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        say("  ".join([first.ljust(widths[0]), *cells]))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="BEFORE", help="a commit, or the file of a record")
    parser.add_argument("after", metavar="AFTER", nargs="?", help="the same; the working tree where it is not given")
    parser.add_argument("--record", metavar="FILE", type=Path, help="write the numbers of one commit into this file")
    parser.add_argument("--only", metavar="NAME", nargs="+", help="these runs alone")
    parser.add_argument("--quick", action="store_true", help="a third of the runs")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="keep run folders and logs in this new folder")
    chosen = parser.parse_args(words)
    try:
        if chosen.jobs < 1:
            raise BadInput(f"--jobs must be 1 or more; got {chosen.jobs}")
        if chosen.only and chosen.quick:
            raise BadInput("--only and --quick exclude each other")
        if chosen.record and chosen.after:
            raise BadInput("--record takes one commit alone")
        if chosen.keep and chosen.keep.exists():
            raise BadInput(f"--keep needs a folder that does not exist yet; {chosen.keep} does")
        with contextlib.ExitStack() as stack:
            outputs = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="same-numbers-")))
            outputs = outputs.resolve()
            if chosen.record:
                code = stack.enter_context(code_of(chosen.before, "before", outputs))
                names = chosen_names([code], only=chosen.only, quick=chosen.quick)
                commit = commit_of("HEAD" if chosen.before == "." else chosen.before)
                return record(code, commit, names, chosen.record, jobs=chosen.jobs, say=say)
            sources: list[Source] = []
            for side, named in (("before", chosen.before), ("after", chosen.after or ".")):
                if Path(named).is_file():
                    sources.append(Record(Path(named)))
                else:
                    sources.append(stack.enter_context(code_of(named, side, outputs)))
            names = chosen_names(sources, only=chosen.only, quick=chosen.quick)
            return compare(*sources, names, jobs=chosen.jobs, say=say)
    except BadInput as error:
        sys.stderr.write(f"same_numbers: {error}\n")
        return 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
