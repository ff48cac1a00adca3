"""A storm: workers are killed, stopped and cut off in every phase, again and again, and the run goes on.

    python benchmarks/storm.py four     four workers, until each phase was struck 8 times, by each kind of fault, and
                                        80 faults have struck in all
    python benchmarks/storm.py pairs    two workers of two ranks (FSDP2), until each phase was struck once
    python benchmarks/storm.py short    four workers, mostly stopped and cut off, each phase once
    python benchmarks/storm.py many     16 workers through 50 syncs, with joins and leaves
    python benchmarks/storm.py brief    four workers through 60 syncs: one run of some three minutes

Real runs of `muloco train` under `chaos`, one after the other, with different seeds of the faults, in two fragments
with tau = 2. Inner steps are held up to a pace, so that a run lasts as long on a fast machine. A storm is passed where
no run hangs, all end with status 0, the anchors of all workers are equal after every sync, the held-out loss lies in
the band of runs that nobody disturbs, and the others' next sync comes within 5 s of a kill (median).

Prints a table and writes results/storm/NAME.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storm_costs import costs, struck
from storm_judge import COMMIT_SECONDS, Figures, figures_of, lines_of

from muloco.failpoints import FAILPOINTS
from muloco.runs.folder import RunFolder

CHECKOUT = Path(__file__).parents[1]
RESULTS = CHECKOUT / "results" / "storm"
CONFIG = "config/laptop/muloco.py"
SETTINGS: dict[str, object] = {
    "model.flavor": "tiny",
    "training.seq_len": 64,
    "training.global_batch_size": 32,
    "training.local_batch_size": 8,
    "training.steps": 400,
    "lr_scheduler.warmup_steps": 10,
    "validation.sequences": 32,
    "validation.freq": 5,
    "checkpoint.interval": 5,
    "metrics.tensorboard": False,
    "fault_tolerance.sync_steps": 10,
    "fault_tolerance.num_fragments": 2,
    "fault_tolerance.fragment_sync_delay": 2,
}
TIMEOUTS: dict[str, object] = {
    "fault_tolerance.exchange_timeout_seconds": 5,
    "fault_tolerance.heartbeat_timeout_seconds": 2,
    "fault_tolerance.straggler_timeout_seconds": 10,
    "fault_tolerance.quorum_timeout_seconds": 120,
    "chaos.stop_seconds": 4,
}


@dataclass(frozen=True, kw_only=True)
class Storm:
    """The runs of a storm, and how often they have to be struck."""

    settings: Mapping[str, object]
    interval: float
    """Seconds between two faults: above what a worker needs to come back, shared by the workers."""
    per_phase: int
    total: int
    kinds: tuple[str, ...] = ()
    """Kinds of faults by which each phase has to be struck."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the undisturbed runs."""


FOUR: dict[str, object] = {"fault_tolerance.group_size": 4}
PAIRS: dict[str, object] = {"fault_tolerance.group_size": 2, "parallelism.data_parallel_shard_degree": 2}
SHORT: dict[str, object] = {
    **FOUR,
    "training.steps": 130,
    "chaos.kinds": "stop cut",  # one that is killed misses the next faults; to strike one that joins it is killed
    "chaos.stop_seconds": 3,
}
MANY: dict[str, object] = {
    "fault_tolerance.group_size": 16,
    "training.global_batch_size": 16,
    "training.local_batch_size": 1,
}
STORMS = {
    "four": Storm(settings=FOUR, interval=16, per_phase=8, total=80, kinds=("kill", "stop", "cut")),
    "pairs": Storm(settings=PAIRS, interval=45, per_phase=1, total=10),
    "short": Storm(settings=SHORT, interval=5, per_phase=1, total=10, seeds=(1,)),
    "many": Storm(settings=MANY, interval=20, per_phase=0, total=10, seeds=(1,)),
    "brief": Storm(settings={**FOUR, "training.steps": 300}, interval=16, per_phase=0, total=8, seeds=(1,)),
}
GROUP_SIZE, STEPS = "fault_tolerance.group_size", "training.steps"
RUN_SECONDS = 900
"""A run that takes longer hangs."""
PACE = """
import sys, time

if "worker" in sys.orig_argv:
    from muloco.failpoints import on_hit

    last = [0.0]

    def pace(phase):
        if phase == "inner_step":
            time.sleep(max(0.0, last[0] + {seconds} - time.monotonic()))
            last[0] = time.monotonic()

    on_hit(pace)
"""


class Failed(RuntimeError):
    """The storm was not weathered; the message says what happened."""


def run(outputs: Path, name: str, settings: Mapping[str, object], *, pace: float = 0.0) -> RunFolder:
    """Runs `muloco train` to its end.

    Raises:
        Failed: it hangs or ends with a failure.
    """
    hook = outputs / f"pace-{pace:g}"
    hook.mkdir(parents=True, exist_ok=True)
    (hook / "sitecustomize.py").write_text(PACE.format(seconds=pace) if pace else "")
    values = {**SETTINGS, **settings, "run.name": name, "run.outputs": str(outputs)}
    words = [word for name, value in values.items() for word in (f"--{name}", *str(value).split())]
    log = outputs / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "muloco", "train", str(CHECKOUT / CONFIG), *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{hook}:{CHECKOUT}"},
        )
        try:
            status = process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.terminate()
            process.wait()
            raise Failed(f"run {name} did not end within {RUN_SECONDS} s; its log is {log}") from None
    if status:
        raise Failed(f"run {name} ended with status {status}:\n" + log.read_text()[-3000:])
    return RunFolder(outputs / name)


def held_out(folder: RunFolder) -> float:
    return json.loads(folder.summary.read_text())["validation_loss"]


def undisturbed(outputs: Path, chosen: Storm) -> list[float]:
    """Held-out losses of runs without faults, in one process."""
    alone = {name: value for name, value in chosen.settings.items() if not name.startswith(("parallelism.", "chaos."))}
    calm = {**alone, "fault_tolerance.transport": "in_process", "checkpoint.enable": False, "validation.freq": 1000}
    return [held_out(run(outputs, f"calm-{seed}", {**calm, "run.seed": seed})) for seed in chosen.seeds]


def band(losses: list[float]) -> tuple[float, float]:
    """Where the held-out loss of a run may lie: four standard deviations around the mean, at least 2 % of it."""
    middle = statistics.mean(losses)
    width = max(4 * statistics.stdev(losses) if len(losses) > 1 else 0.0, 0.02 * middle)
    return middle - width, middle + width


def storm(outputs: Path, chosen: Storm, *, pace: float, limit: float) -> dict[str, Any]:
    """Runs until all has been struck often enough.

    Raises:
        Failed: see above.
    """
    figures, restarts = Figures(), 0
    courses: list[list[dict[str, Any]]] = []
    losses: list[float] = []
    started = time.monotonic()
    calm = ThreadPoolExecutor(1).submit(undisturbed, outputs, chosen)
    workers, steps = (int(str((SETTINGS | dict(chosen.settings))[name])) for name in (GROUP_SIZE, STEPS))
    while missing := figures.missing(per_phase=chosen.per_phase, total=chosen.total, kinds=chosen.kinds):
        if time.monotonic() - started > limit:
            raise Failed(f"within {limit:g} s: {'; '.join(missing)}")
        number = len(losses)
        chaos = {"chaos.interval_seconds": chosen.interval, "chaos.seed": number}
        folder = run(outputs, f"storm-{number}", {**TIMEOUTS, **chosen.settings, **chaos}, pace=pace)
        courses.append(lines_of(folder))
        figures.add(figures_of(courses[-1], workers=workers, steps=steps))
        losses.append(held_out(folder))
        restarts += json.loads(folder.summary.read_text())["restarts"]
        print(f"{folder.root.name}: held-out loss {losses[-1]:.4f}, {figures.summary()}", flush=True)
        if figures.mismatches:
            raise Failed(f"{folder.root}: the workers' anchors differ: {figures.mismatches}")
    seconds = round(time.monotonic() - started)
    low, high = band(calm.result())
    return {
        **figures.summary(),
        "restarts": restarts,
        "runs": len(losses),
        "seconds": seconds,
        "held_out_loss": losses,
        "band_undisturbed": [low, high],
        "within_band": all(low <= loss <= high for loss in losses),
        "costs": costs(courses),
        "courses": [_course(lines) for lines in courses],
    }


def _course(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """When a run began, in seconds since 1970, how long it trained, and what has struck it."""
    began = lines[0]["time"]
    return {
        "began": began,
        "seconds": round(lines[-1]["time"] - began, 1),
        "faults": struck(lines, began),
    }


def table(result: Mapping[str, Any]) -> str:
    """For the eye."""
    kinds = sorted({kind for counts in result["faults_by_phase"].values() for kind in counts})
    rows = ["phase        " + "".join(f"{kind:>8}" for kind in kinds)]
    for phase in FAILPOINTS:
        rows.append(f"{phase:<13}" + "".join(f"{result['faults_by_phase'][phase][kind]:>8}" for kind in kinds))
    commits, returns = result["seconds_to_next_commit"], result["seconds_to_return"]
    rows += [
        "",
        f"{result['faults']} faults in {result['seconds']} s, {result['restarts']} restarts, {result['joins']} joins",
        f"{result['digests']} digests of {result['syncs']} syncs, {len(result['mismatches'])} mismatches",
        f"step efficiency {100 * result['step_efficiency']:.1f} %",
        *_living(result),
        f"the others' next sync after a kill: median {commits.get('median')} s, at most {commits.get('most')} s",
        f"from a kill to the victim's return: median {returns.get('median')} s, at most {returns.get('most')} s",
    ]
    low, high = result["band_undisturbed"]
    losses = ", ".join(f"{loss:.4f}" for loss in result["held_out_loss"])
    rows.append(f"held-out loss {losses}; band of runs that nobody disturbs: {low:.4f} to {high:.4f}")
    return "\n".join(rows)


def _living(result: Mapping[str, Any]) -> list[str]:
    """One line; none for a result of earlier versions."""
    share = result.get("share_of_the_living")
    return [] if share is None else [f"of the living workers, {100 * share:.1f} % take part in a sync"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("storm", choices=STORMS)
    parser.add_argument("--pace", type=float, default=0.4, help="least seconds of an inner step")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which no further run begins")
    parser.add_argument("--outputs", type=Path, help="where run folders are kept; else they are deleted")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            result = storm(chosen.outputs or Path(scratch), STORMS[chosen.storm], pace=chosen.pace, limit=chosen.limit)
        except Failed as failure:
            print(failure, file=sys.stderr)
            return 1
    print(table(result))
    median = result["seconds_to_next_commit"].get("median", 0.0)
    command = f"python benchmarks/storm.py {chosen.storm} --pace {chosen.pace:g}"
    chosen.results.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"command": command, **result}, indent=2)
    (chosen.results / f"{chosen.storm}.json").write_text(text + "\n")
    if not result["within_band"]:
        print("a held-out loss is outside of the band", file=sys.stderr)
        return 1
    if median > COMMIT_SECONDS:
        print(f"the others' next sync came later than {COMMIT_SECONDS:g} s after a kill (median)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
