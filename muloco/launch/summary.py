"""The summary of a finished run: summary.json, and the same as a table."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from muloco.runs.checkpoint_folder import CheckpointFolder, NoWholeCheckpoint
from muloco.runs.folder import RunFolder, missing_metrics, read_json, read_lines, read_metrics, write_json
from muloco.runs.metrics_lines import is_complete
from muloco.settings.config import ResolvedConfig
from muloco.training.resuming import run_folder, way_on

logger = logging.getLogger(__name__)

SHOWN_FIGURES = 4
"""Number of figures of an evaluation that the table shows."""


def summarize(
    config: ResolvedConfig,
    folder: RunFolder,
    *,
    corpus: Sequence[str],
    wall_seconds: float,
    restarts: int,
    resumes: int = 0,
) -> dict[str, Any]:
    """Returns the contents of summary.json. A figure that the metrics do not hold is None: all of training if the
    metrics of a worker are missing, and the held-out loss before it if that of step 0 is.

    Args:
        folder: of a run that is complete.
        corpus: SHA-256 of its sources, by which runs on different text are told apart.
        wall_seconds: of this start, from the call of the launcher on, and of earlier starts (`seconds_before`).
        restarts: how often workers were started again, since the last start.
        resumes: how often the supervisor has resumed the run since the last start.
    """
    lines = list(filter(_is_whole, read_metrics(folder)))
    training = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation_loss" in line]
    syncs = [line for line in lines if line.get("event") == "sync"]
    last_step = max((line["step"] for line in training), default=config.training.steps)
    reached = max(line["step"] for line in lines)  # not every step is logged
    final = {line["worker"]: line for line in training if line["step"] == last_step}
    by_worker = _by_worker(training)
    known = len(by_worker) == config.workers
    rates = [_rate(by_worker[worker]) for worker in final]
    before = [line["validation_loss"] for line in validations if line["step"] == 0]
    return {
        "workers": config.workers,
        "steps": last_step,
        "tokens": sum(line["tokens"] for line in final.values()) if known else None,
        "tokens_per_second": sum(rates) if known else None,
        "training_loss": sum(line["loss"] for line in final.values()) / len(final) if known else None,
        "validation_loss_before": before[0] if before else None,
        "validation_loss": max(validations, key=lambda line: line["step"])["validation_loss"],
        "validation_bits_per_byte": max(validations, key=lambda line: line["step"]).get("validation_bits_per_byte"),
        "local_validation_loss": own_loss(lines, step=max(line["step"] for line in validations)),
        "syncs": len({(line["step"], line["fragment"]) for line in syncs}),
        "bytes_sent_per_worker": _sent(syncs, "bytes_sent"),
        "bytes_ring_per_worker": _sent(syncs, "bytes_ring"),
        "restarts": restarts,
        "resumes": resumes,
        "lost_steps": lost_steps(lines, workers=config.workers, steps=reached) if syncs else 0,
        "missing_metrics": missing_metrics(folder, lines, config.workers),
        "lost_lines": sum(line["lines"] for line in lines if line.get("event") == "lines_lost"),
        "evaluation": last_evaluation(lines),
        "failed_checkpoints": len({line["step"] for line in lines if line.get("event") == "checkpoint_failed"}),
        "corpus_sha256": list(corpus),
        "wall_seconds": round(wall_seconds, 1),
    }


def sum_up_by_hand(config: ResolvedConfig) -> None:
    """Writes summary.json at the end of a worker that no supervisor has started, if the last step is validated. Every
    worker does this, so the last one has seen the metrics of all."""
    folder = run_folder(config)
    if not reached_end(config, folder):
        return
    content = read_json(folder.config).get("data") or {}
    corpus = content.get("text") or content.get("held out") or []
    while True:  # until no other worker has written meanwhile
        seen = folder.metrics_size()
        times = [line["time"] for line in read_metrics(folder) if "time" in line]
        summary = summarize(config, folder, corpus=corpus, wall_seconds=max(times) - min(times), restarts=0)
        write_json(folder.summary, summary)
        if folder.metrics_size() == seen:
            break
    logger.info("the summary of the run is %s", folder.summary)


def seconds_before(folder: RunFolder, attempt: int) -> float:
    """Seconds that earlier starts of a run took, from the first to the last line of metrics of each."""
    if attempt == 1:
        return 0
    times: dict[int, list[float]] = defaultdict(list)
    for path in folder.metrics_files().values():
        for line in read_lines(path):
            if line["attempt"] < attempt and isinstance(line.get("time"), int | float):
                times[line["attempt"]].append(line["time"])
    return sum(max(of_attempt) - min(of_attempt) for of_attempt in times.values())


def reached_end(config: ResolvedConfig, folder: RunFolder) -> bool:
    """Whether the workers have made all inner steps. After the last one they validate."""
    return any(line["step"] == config.training.steps and "validation_loss" in line for line in read_metrics(folder))


def newest_checkpoint(folder: RunFolder) -> int | None:
    """Step of the newest checkpoint that is whole; None where there is none, or all are damaged."""
    try:
        newest, _ = CheckpointFolder(folder.checkpoint).newest()
    except NoWholeCheckpoint:
        return None
    return None if newest is None else newest.step


def how_it_stopped(folder: RunFolder, *, steps: int) -> str:
    """One line about a run that was stopped before its end: what it has, and the command that resumes it.

    Args:
        steps: inner steps that the config asks for.
    """
    lines = (line for path in folder.metrics_files().values() for line in read_lines(path))
    # a worker that is about to load a checkpoint is at step 0
    _, reached = max(((line["attempt"], line["step"]) for line in lines if line["step"] > 0), default=(0, 0))
    where = f"stopped at step {reached} of {steps}" if reached else "stopped before the first step"
    return f"{where}; {way_on(folder)}"


def summary_table(summary: dict[str, Any], *, config: ResolvedConfig) -> Table:
    """The summary as a table of two columns."""
    table = Table(title=f"run {config.run.name}", show_header=False, title_justify="left")
    before, after = summary["validation_loss_before"], summary["validation_loss"]
    bits = summary["validation_bits_per_byte"]
    per_byte = f" ({bits:.4f} bits per byte)" if bits is not None else ""
    workers, missing, resumes = summary["workers"], summary["missing_metrics"], summary["resumes"]
    lost = f"{summary['restarts']} started again, {summary['lost_steps']} inner steps lost"
    rows = {
        "held-out loss": f"{_known(before, '.4f')} before, {after:.4f} after{per_byte}",
        "training loss": f"{_known(summary['training_loss'], '.4f')} at step {summary['steps']}",
        "tokens": f"{_known(summary['tokens'], ',')} by {workers} worker{'s' * (workers > 1)}",
        "tokens/s": f"{_known(summary['tokens_per_second'], ',.0f')} by all workers, syncs included",
        "syncs": str(summary["syncs"]),
        "sent by a worker": _traffic(summary) if workers > 1 else "",
        "lost workers": lost if summary["restarts"] or summary["lost_steps"] else "",
        "resumed": "" if not resumes else "once" if resumes == 1 else f"{resumes} times",
        "evaluation": _evaluation(summary["evaluation"]) if summary["evaluation"] else "",
        "failed checkpoints": str(summary["failed_checkpoints"] or ""),
        "missing metrics": "\n".join(missing),
        "lost lines of metrics": str(summary["lost_lines"] or ""),
        "wall time": f"{summary['wall_seconds']:.0f} s",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _known(figure: float | None, form: str) -> str:
    return "unknown" if figure is None else format(figure, form)


def _traffic(summary: dict[str, Any]) -> str:
    sent, ring = summary["bytes_sent_per_worker"], summary["bytes_ring_per_worker"]
    saved = f", {ring / sent:.1f} times less than an fp32 ring all-reduce" if ring > 1.1 * sent > 0 else ""
    return f"{sent / 1e6:,.1f} MB to other workers{saved}"


def last_evaluation(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The step of the last evaluation in training and its figures by TASK/METRIC, `mean` among them; None where nothing
    was evaluated. All workers evaluate the same anchor, so any one's figures are taken."""
    evaluations = [line for line in lines if line.get("event") == "evaluation"]
    if not evaluations:
        return None
    last = max(evaluations, key=lambda line: line["step"])
    named = {name.removeprefix("evaluation/"): value for name, value in last.items() if name.startswith("evaluation/")}
    return {"step": last["step"], "figures": named}


def _evaluation(evaluation: dict[str, Any]) -> str:
    names = sorted(evaluation["figures"], key=lambda name: name != "mean")
    shown = ", ".join(f"{name} {evaluation['figures'][name]:.4f}" for name in names[:SHOWN_FIGURES])
    more = f", {len(names) - SHOWN_FIGURES} more in summary.json" if len(names) > SHOWN_FIGURES else ""
    return f"{shown}{more}, after step {evaluation['step']}"


def lost_steps(lines: Iterable[Mapping[str, Any]], *, workers: int, steps: int) -> int:
    """Inner steps of workers that no sync has taken in: from a worker's last sync to where it joined again, or to the
    end of the run.

    Args:
        lines: of metrics, those of a worker in the order written.
    """
    lost, reached = 0, dict.fromkeys(range(workers), 0)
    for line in lines:
        if line.get("event") == "join":
            lost += max(0, line["step"] - reached[line["worker"]])
        if line.get("event") in ("sync", "join"):
            reached[line["worker"]] = max(line["step"], reached[line["worker"]])
    return lost + sum(steps - step for step in reached.values())


def own_loss(lines: Iterable[Mapping[str, Any]], *, step: int) -> float | None:
    """Mean held-out loss of the workers' own weights just before the sync after a step, over those that took part in
    it; None where no worker has logged it, as without outer steps.

    Args:
        step: inner step; the last one of a run is always validated and synced.
    """
    at_step = [line for line in lines if line["step"] == step]
    synced = {line["worker"] for line in at_step if line.get("event") == "sync"}
    own = {line["worker"]: line["local_validation_loss"] for line in at_step if "local_validation_loss" in line}
    losses = [loss for worker, loss in own.items() if worker in synced]
    return sum(losses) / len(losses) if losses else None


def _is_whole(line: Mapping[str, Any]) -> bool:
    """Whether a line of metrics has the values from which a summary is made."""
    if "loss" in line and not ("tokens" in line and line.get("tokens_per_second", 0) > 0):
        return False
    return is_complete(line) and (line.get("event") != "sync" or "bytes_ring" in line)


def _rate(training: list[dict[str, Any]]) -> float:
    """Tokens a second of one worker over all its steps: syncs and checkpoints included, validation not."""
    tokens, seconds = 0, 0.0
    for line in sorted(training, key=lambda line: line["step"]):
        seconds += (line["tokens"] - tokens) / line["tokens_per_second"]
        tokens = line["tokens"]
    return tokens / seconds


def _sent(syncs: list[dict[str, Any]], key: str) -> int:
    """The most bytes that one worker has sent to others in all syncs."""
    return max((sum(sync[key] for sync in of_worker) for of_worker in _by_worker(syncs).values()), default=0)


def _by_worker(lines: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    by_worker: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        by_worker[line["worker"]].append(line)
    return by_worker
