"""A storm: workers are killed, stopped and cut off in every phase, again and again, and the run goes on.

    python benchmarks/storm.py            runs until each phase was struck 8 times, and 80 times in all
    python benchmarks/storm.py --short    each phase at least once, four workers
    python benchmarks/storm.py many       16 workers through 50 syncs, with joins and leaves

Real runs of `muloco train` under `chaos`, one after the other, with different seeds of the faults; four workers of one
process, and two workers of two (FSDP2), in two fragments, with tau = 2. Inner steps are held up to a pace, so that the
machine is not what is measured, and that a run lasts as long on a fast one. A storm is passed where no run hangs, all
end with status 0, the anchors of all workers are equal after every sync, the held-out loss lies in the band of runs with
other seeds that nobody disturbs, and the others' next sync comes within 5 s of a kill (median).

Prints a table and writes results/storm/NAME.json.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storm_judge import COMMIT_SECONDS, Figures, judge, spread

from muloco.phases import PHASES
from muloco.training.run_folder import RunFolder

CHECKOUT = Path(__file__).parents[1]
RESULTS = CHECKOUT / "results" / "storm"
CONFIG = "config/laptop/muloco.py"
SETTINGS: dict[str, object] = {
    "model.flavor": "tiny",
    "training.seq_len": 64,
    "training.global_batch_size": 8,
    "training.local_batch_size": 2,
    "training.steps": 200,
    "lr_scheduler.warmup_steps": 10,
    "validation.sequences": 64,
    "validation.freq": 20,
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
SETUPS: dict[str, dict[str, object]] = {
    "four": {"fault_tolerance.group_size": 4},
    "pairs": {"fault_tolerance.group_size": 2, "parallelism.data_parallel_shard_degree": 2},
}
MANY = {
    "fault_tolerance.group_size": 16,
    "training.global_batch_size": 16,
    "training.local_batch_size": 1,
    "training.steps": 250,
}
SEEDS = (1, 2, 3)
RUN_SECONDS = 900
"""A run that takes longer hangs."""
PACE = """
import sys, time

if "worker" in sys.orig_argv:
    from muloco.phases import listen

    last = [0.0]

    def pace(phase):
        if phase == "inner_step":
            time.sleep(max(0.0, last[0] + {seconds} - time.monotonic()))
            last[0] = time.monotonic()

    listen(pace)
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
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
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


def undisturbed(outputs: Path, name: str, settings: Mapping[str, object], seeds: tuple[int, ...]) -> list[float]:
    """Held-out losses of runs without faults, in one process."""
    alone = {k: v for k, v in settings.items() if not k.startswith("parallelism.")}
    calm = {**alone, "fault_tolerance.transport": "in_process", "checkpoint.enable": False, "validation.freq": 1000}
    return [held_out(run(outputs, f"{name}-calm-{seed}", {**calm, "run.seed": seed})) for seed in seeds]


def band(losses: list[float]) -> tuple[float, float]:
    """Where the held-out loss of a run may lie: four standard deviations around the mean, at least 2 % of it."""
    middle = statistics.mean(losses)
    width = max(4 * statistics.stdev(losses) if len(losses) > 1 else 0.0, 0.02 * middle)
    return middle - width, middle + width


def storm(outputs: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Runs until all has been struck often enough.

    Raises:
        Failed: see above.
    """
    setups = {name: SETUPS[name] for name in chosen.setups}
    bands = {name: band(undisturbed(outputs, name, setup, tuple(chosen.seeds))) for name, setup in setups.items()}
    figures, losses = Figures(), {name: [] for name in setups}
    restarts, by_setup = 0, {name: Figures() for name in setups}
    started = time.monotonic()
    round_ = 0
    while True:
        for name, setup in setups.items():
            chaos = {"chaos.interval_seconds": chosen.interval, "chaos.seed": round_}
            folder = run(outputs, f"{name}-{round_}", {**setup, **TIMEOUTS, **chaos}, pace=chosen.pace)
            workers = int(str(setup["fault_tolerance.group_size"]))
            one = judge(folder, workers=workers, steps=int(str(SETTINGS["training.steps"])))
            print(f"{name}-{round_}: {json.dumps(one.summary())}", flush=True)
            losses[name].append(held_out(folder))
            restarts += json.loads(folder.summary.read_text())["restarts"]
            figures.add(one)
            by_setup[name].add(one)
            if not bands[name][0] <= losses[name][-1] <= bands[name][1]:
                raise Failed(f"held-out loss {losses[name][-1]:.4f} of {folder.root} is outside of {bands[name]}")
            if figures.mismatches:
                raise Failed(f"{folder.root}: the workers' anchors differ: {figures.mismatches}")
        missing = figures.missing(per_phase=chosen.per_phase, total=chosen.total)
        if not missing:
            break
        round_ += 1
        if time.monotonic() - started > chosen.limit:
            raise Failed(f"within {chosen.limit:g} s: {'; '.join(missing)}")
    if (median := spread(figures.commits).get("median", 0.0)) > COMMIT_SECONDS and not chosen.short:
        raise Failed(f"the others' next sync came {median:.1f} s after a kill (median), not within {COMMIT_SECONDS:g}")
    return {
        **figures.summary(),
        "restarts": restarts,
        "seconds": round(time.monotonic() - started),
        "setups": {
            name: {**by_setup[name].summary(), "held_out_loss": losses[name], "band_undisturbed": bands[name]}
            for name in setups
        },
    }


def table(result: Mapping[str, Any]) -> str:
    """For the eye."""
    kinds = sorted({kind for counts in result["faults_by_phase"].values() for kind in counts})
    rows = ["phase        " + "".join(f"{kind:>8}" for kind in kinds)]
    for phase in PHASES:
        rows.append(f"{phase:<13}" + "".join(f"{result['faults_by_phase'][phase][kind]:>8}" for kind in kinds))
    commits, returns = result["seconds_to_next_commit"], result["seconds_to_return"]
    rows += [
        "",
        f"{result['faults']} faults in {result['seconds']} s, {result['restarts']} restarts, {result['joins']} joins",
        f"{result['digests']} digests of {result['syncs']} syncs, {len(result['mismatches'])} mismatches",
        f"step efficiency {100 * result['step_efficiency']:.1f} %",
        f"the others' next sync after a kill: median {commits.get('median')} s, at most {commits.get('most')} s",
        f"from a kill to the victim's return: median {returns.get('median')} s, at most {returns.get('most')} s",
    ]
    for name, setup in result["setups"].items():
        low, high = setup["band_undisturbed"]
        spans = ", ".join(f"{loss:.4f}" for loss in setup["held_out_loss"])
        rows.append(f"{name}: held-out loss {spans}; undisturbed {low:.4f} to {high:.4f}")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("storm", "many"), default="storm")
    parser.add_argument("--short", action="store_true", help="one run of four workers, each phase at least once")
    parser.add_argument("--interval", type=float, default=8.0, help="seconds between two faults")
    parser.add_argument("--pace", type=float, default=0.4, help="least seconds of an inner step")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which no further run begins")
    parser.add_argument("--outputs", type=Path, help="where run folders are kept; else they are deleted")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    chosen.setups, chosen.seeds = (["four"], [1]) if chosen.short else (list(SETUPS), list(SEEDS))
    chosen.per_phase, chosen.total = (1, len(PHASES)) if chosen.short else (8, 80)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            result = storm(chosen.outputs or Path(scratch), chosen)
        except Failed as failure:
            print(failure, file=sys.stderr)
            return 1
    print(table(result))
    command = shlex.join(["python", "benchmarks/storm.py", *sys.argv[1:]])
    chosen.results.mkdir(parents=True, exist_ok=True)
    name = "short" if chosen.short else chosen.what
    (chosen.results / f"{name}.json").write_text(json.dumps({"command": command, **result}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
