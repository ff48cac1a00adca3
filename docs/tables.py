"""Tables of the documents that follow from code or from committed results.

    python docs/tables.py            # writes them into the documents (make docs-tables)
    python docs/tables.py --check    # fails if one is not current

A document has `<!-- generated: NAME -->` and `<!-- end -->` around a table; NAME is a function below, which returns the
lines between the two.
"""

import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args, get_type_hints

from muloco.analysis import published
from muloco.analysis.wall_clock import wall_clock
from muloco.model import listing
from muloco.model.architectures.titan.sizes import OBSTACLES
from muloco.model.flavors import flavor
from muloco.optim.groups import OPTIONS
from muloco.optim.rule import Option
from muloco.optim.rules import RULES
from muloco.outer.codecs import table as codec_table
from muloco.outer.loop.fragments import Schedule
from muloco.outer.loop.sync import STATISTICS
from muloco.recipes.model_map import BATCH_3_1B
from muloco.settings.fault_tolerance import FaultTolerance
from muloco.settings.load import CHECKOUT
from muloco.settings.outer import OuterOptimizer

BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.S)
TABLES: dict[str, Callable[[], str]] = {}


def table(function: Callable[[], str]) -> Callable[[], str]:
    TABLES[function.__name__] = function
    return function


def results(path: str) -> dict:
    return json.loads((CHECKOUT / "results" / path).read_text())


def benchmark(name: str):
    """A module of benchmarks/."""
    if (folder := str(CHECKOUT / "benchmarks")) not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def rows(head: Sequence[str], *cells: Sequence[str]) -> str:
    """A table of Markdown."""
    first, *others = (f"| {' | '.join(line)} |".replace("|  |", "| |") for line in (head, *cells))
    return "\n".join([first, "|" + "---|" * len(head), *others])


def indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def fenced(text: str) -> str:
    return f"```\n{text}\n```"


@table
def demo() -> str:
    found = results("first_light/demo/summary.json")
    cells = {
        "held-out loss": f"{found['validation_loss_before']:.4f} before, {found['validation_loss']:.4f} after "
        f"({found['validation_bits_per_byte']:.4f} bits per byte)",
        "training loss": f"{found['training_loss']:.4f} at step {found['steps']}",
        "tokens": f"{found['tokens']:,} by {found['workers']} workers",
        "tokens/s": f"{found['tokens_per_second']:,.0f} by all workers, syncs included",
        "syncs": str(found["syncs"]),
        "sent by a worker": f"{found['bytes_sent_per_worker'] / 1e6:.1f} MB to other workers",
        "wall time": f"{found['wall_seconds']:.0f} s",
    }
    left, right = max(map(len, cells)), max(map(len, cells.values()))
    lines = [f"│ {name:{left}} │ {value:{right}} │" for name, value in cells.items()]
    edge = ("─" * (left + 2), "─" * (right + 2))
    return indented("\n".join([f"┌{'┬'.join(edge)}┐", *lines, f"└{'┴'.join(edge)}┘"]))


@table
def models() -> str:
    head = ("flavor", "parameters", "active", "vocabulary", "tensor parallelism", "pipeline", "Hugging Face form")
    return rows(head, *((f"`{name}`", *cells) for name, *cells in listing.rows()))


@table
def obstacles() -> str:
    return rows(
        ("model of torchtitan", "why it is not trained"),
        *((f"`{name}`", f"it {why}") for name, why in OBSTACLES.items()),
    )


@table
def fragments() -> str:
    schedule = Schedule(sync_interval=12, fragments=3, delay=2)
    steps = range(1, 19)
    lines = ["inner step  " + "".join(f"{step:4}" for step in steps)]
    for fragment in range(3):
        marks = ""
        for step in steps:
            sent, due = (of(step) == fragment for of in (schedule.sent_after, schedule.due_after))
            on_its_way = any(schedule.sent_after(step - tau) == fragment for tau in range(1, 3))
            marks += ("---" if on_its_way else "   ") + ("S" if sent else "A" if due else "-" if on_its_way else ".")
        lines.append(f"fragment {fragment}  {marks}")
    return indented("\n".join(lines))


TIMEOUTS = {
    "heartbeat_timeout_seconds": ("waiting for the dead", "the longest silence of a live machine"),
    "exchange_timeout_seconds": (
        "a member that stands still during a sync; it is the limit for each chunk of 16 MiB",
        "the time of 16 MiB on the slowest link",
    ),
    "straggler_timeout_seconds": (
        "waiting for the living but late",
        "how much later the slowest worker ends its window",
    ),
    "quorum_timeout_seconds": (
        "waiting for ever where too few are left, or the lighthouse is away",
        "the slowest window; how long you take to repair something",
    ),
    "stall_timeout_seconds": (
        "a worker that is alive but takes no step",
        "the longest pause between two steps, such as a slow source of data",
    ),
}


@table
def timeouts() -> str:
    values = {name: value for name, value in asdict(FaultTolerance()).items() if name.endswith("_timeout_seconds")}
    assert values.keys() == TIMEOUTS.keys(), "each timeout has a row"
    return rows(
        ("field", "default", "what it protects from", "set it above"),
        *((f"`{name}`", f"{values[name]:g}", *meaning) for name, meaning in TIMEOUTS.items()),
    )


OUTER_OPTIMIZERS = {
    "sgd": (
        "`lr`, `momentum`, `nesterov`",
        "buf <- momentum buf + g; anchor <- anchor - lr (g + momentum buf), without Nesterov - lr buf",
    ),
    "adamw": ("`lr`, `beta1`, `beta2`, `eps`", "AdamW without weight decay"),
    "muon": ("all of these", "Muon on every matrix, embedding and head among them; AdamW on vectors"),
}
TRANSPORTS = {
    "torchft": ("processes, or groups of ranks", "at torchft's lighthouse; gloo or NCCL carries the bytes", "yes"),
    "in_process": (
        "threads of one process (one for each rank of a worker) that take turns",
        "in memory",
        "no",
    ),
}


def _choices(section: type, field: str, head: Sequence[str], meanings: dict[str, tuple[str, ...]]) -> str:
    assert set(get_args(get_type_hints(section)[field])) == set(meanings), f"each choice of {field} has a row"
    return rows(head, *((f"`{choice}`", *meaning) for choice, meaning in meanings.items()))


@table
def outer_optimizers() -> str:
    head = ("`outer_optimizer.class_name`", "takes", "the step, with the mean pseudogradient g")
    return _choices(OuterOptimizer, "class_name", head, OUTER_OPTIMIZERS)


@table
def transports() -> str:
    head = ("`fault_tolerance.transport`", "workers are", "they meet", "overlap")
    return _choices(FaultTolerance, "transport", head, TRANSPORTS)


@table
def sync_statistics() -> str:
    lines = [(f"`{s.name}`", s.unit, s.doc, "sum" if s.summed else "rank 0") for s in STATISTICS]
    return rows(("value", "unit", "meaning", "over a worker's ranks"), *lines)


@table
def recovery() -> str:
    path = CHECKOUT / "results" / "storm" / "recovery.jsonl"
    killed, *lines = map(json.loads, path.read_text().splitlines())
    syncs = [line for line in lines if line["event"] == "sync"]
    asks, joined = (line for line in lines if line["event"] == "join")
    common = next(line for line in syncs if "3" in line["weights"])
    alone = [line for line in syncs if 15 < line["step"] <= 35]

    def at(line: dict) -> str:
        return f"{line['time'] - killed['time']:.1f}"

    return rows(
        ("seconds", ""),
        (at(killed), "worker 3 is killed; the exchange of the others breaks, and they meet again"),
        ("1", "the supervisor starts it again; it imports torch and builds its model"),
        (
            at(syncs[0]),
            "the heartbeat timeout has passed: workers 0, 1 and 2 commit the sync with the windows that they brought",
        ),
        (f"{at(alone[0])} ... {at(alone[-1])}", f"they commit {len({line['step'] for line in alone})} more syncs"),
        (at(asks), f"worker 3 has loaded the newest checkpoint, of step {asks['step']}, and asks to join"),
        (
            at(joined),
            f"at the sync of step {joined['step']} it has taken over the state of a live worker and goes on",
        ),
        (
            at(common),
            f"the first common commit, of step {common['step']}: its pseudogradient counts with the "
            f"{common['weights']['3']} inner steps that it has taken since",
        ),
    )


def _storm(name: str) -> str:
    return indented(benchmark("storm").table(results(f"storm/{name}.json")))


@table
def storm_four() -> str:
    return _storm("four")


@table
def storm_many() -> str:
    return _storm("many")


@table
def storm_pairs() -> str:
    return _storm("pairs")


@table
def storm_brief() -> str:
    return _storm("brief")


@table
def calibration() -> str:
    """Storms as measured, in simulated time, and by the model of `muloco plan --faults`."""
    names = {"brief": "4", "four": "4", "many": "16", "pairs": "2, of two ranks"}
    figures = {
        "step_efficiency": ("step efficiency", "{:.1%}"),
        "share_of_all": ("of all workers, take part in a sync", "{:.1%}"),
        "share_of_the_living": ("of the living workers", "{:.1%}"),
        "seconds_to_next_sync": ("from a kill to the others' next sync", "{:.2f} s"),
    }
    lines = []
    for name, found in results("simulation/calibration.json")["storms"].items():
        for figure, (meaning, form) in figures.items():
            values = [found[figure][source] for source in ("measured", "simulated", "planned")]
            lines.append(
                (f"`{name}`, K = {names[name]}", meaning, *("" if v is None else form.format(v) for v in values))
            )
    return rows(("storm", "", "measured", "simulated", "planned"), *lines)


@table
def planned_faults() -> str:
    """Runs whose workers are killed at random, in simulated time and by the model."""
    lines = []
    for workers, found in results("simulation/calibration.json")["random"].items():
        pairs = [found[name] for name in ("step_efficiency", "share_of_the_living", "slowdown")]
        cells = [
            f"{pair['simulated']:{form}} / {pair['planned']:{form}}"
            for pair, form in zip(pairs, (".1%", ".1%", ".3f"), strict=True)
        ]
        lines.append(
            (
                workers,
                f"{found['kills_per_hour']:g}",
                f"{found['runs']} x {found['syncs']}",
                str(found["faults"]),
                *cells,
            )
        )
    return rows(
        (
            "K",
            "an hour",
            "syncs",
            "kills",
            "step efficiency",
            "of the living take part",
            "duration beside that without faults",
        ),
        *lines,
    )


@table
def attacks() -> str:
    module = benchmark("attacking.table")
    return indented("\n".join(module.counts(module.read(CHECKOUT / "results" / "attacks" / "full.jsonl"))))


def _overhead(kind: str) -> str:
    return indented(benchmark(f"overhead_{kind}").table(results(f"overhead/{kind}.json")))


@table
def overhead_sync() -> str:
    return _overhead("sync")


@table
def overhead_link() -> str:
    return _overhead("link")


@table
def overhead_exchange() -> str:
    return _overhead("exchange")


@table
def overhead_seals() -> str:
    return _overhead("seals")


@table
def rules() -> str:
    each = {"element": "", "row": " (one a row)", "tensor": " (one a tensor)"}
    return rows(
        ("rule", "takes", "what it does", "state of a parameter"),
        *(
            (
                f"`{rule.name}`",
                rule.takes,
                rule.about,
                ", ".join(f"`{name}`{each[per]}" for name, per in rule.state.items()),
            )
            for rule in RULES.values()
        ),
    )


@table
def rule_options() -> str:
    def taken_by(option: Option) -> str:
        names = ", ".join(rule.name for rule in RULES.values() if option in rule.options)
        return names if option.in_constructor else f"{names} group"

    def default(option: Option) -> str:
        value = f"`{option.default}`" if isinstance(option.default, str) else str(option.default)
        return option.default_text or value

    return rows(
        ("option", "of", "default", "meaning"),
        *((f"`{name}`", taken_by(option), default(option), option.about) for name, option in OPTIONS.items()),
    )


@table
def muon_ranks() -> str:
    return indented(benchmark("muon_ranks").table(results("muon/150M_ranks.json")))


@table
def muon_speed() -> str:
    lines = []
    for size in ("150M", "416M"):
        found = results(f"muon/{size}.json")
        ours, torchs, adamw = (found["optimizers"][name] for name in ("muloco Muon", "torch Muon", "torch AdamW"))
        lines.append(
            [
                size,
                *(f"{row['milliseconds']:.0f} ms, {row['share_of_gemm_rate']:.2f}" for row in (ours, torchs)),
                f"{adamw['milliseconds']:.0f} ms",
                *(f"{found['orthogonality'][name]['rms_error']:.3f}" for name in ("muloco Muon", "torch Muon")),
            ]
        )
    return rows(("flavor", "`Muon`", "`torch.optim.Muon`", "`torch.optim.AdamW`", "rms, ours", "rms, torch"), *lines)


@table
def muon_peers() -> str:
    names = ("torch Muon", "muon-optimizer", "pytorch_optimizer", "optimuon", "heavyball")
    head = ("flavor", "`torch.optim.Muon`", *(f"`{name}`" for name in names[1:]), "products alone", "with two passes")
    lines = []
    for size in ("150M", "416M"):
        found = results(f"muon/{size}.json")
        cells = [found["optimizers"][name]["time_beside_ours"] for name in names]
        cells += [found["share_of_gemm_rate"][name] for name in ("plain_products", "and_two_passes")]
        lines.append([size, *(f"{cell:.2f}" for cell in cells)])
    return rows(head, *lines)


CODECS = [
    *("none", "bf16"),
    *(f"{kind} {bits} bits tensor" for kind in ("linear", "statistical", "lloyd_max") for bits in (2, 4, 8)),
    *(
        f"{kind} {bits} bits row"
        for kind, most in (("linear", 8), ("statistical", 4), ("lloyd_max", 4))
        for bits in (2, 4, 8)
        if bits <= most
    ),
    *("topk 0.1", "topk 0.01", "topk 0.1 lloyd_max 2 bits"),
]


@table
def kinds_of_codec() -> str:
    return rows(("`compression.kind`", "settings", "what arrives"), *codec_table())


@table
def codecs() -> str:
    methods, lines = results("compression/codecs.json")["methods"], []
    for method in CODECS:
        found = methods[method]
        kind, _, settings = method.partition(" ")
        figures = (found["bits_per_element"], found["relative_error"], found["encode_gigabytes_per_second"])
        lines.append((f"`{kind}` {settings}".strip(), *map("{:.{}f}".format, figures, (2, 3, 2))))
    return rows(("codec", "bits an element", "error", "encode GB/s"), *lines)


@table
def compression_loss() -> str:
    return fenced(benchmark("compression_loss_table").table(results("compression/loss.json")))


@table
def compression_link() -> str:
    return fenced(benchmark("compression_link").table(results("compression/link.json")))


@table
def compression_streaming() -> str:
    return fenced(benchmark("compression_link").streaming_table(results("compression/streaming.json")))


def _pseudogradients(number: int) -> str:
    text = (CHECKOUT / "results" / "pseudogradients" / "table.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    return tables[number].rstrip()


@table
def pseudogradients_agree() -> str:
    return _pseudogradients(0)


@table
def pseudogradients_spectra() -> str:
    return _pseudogradients(1)


def _published(corner: str, figures: Mapping[str, Mapping[Any, float]], form: str, column: str = "{}") -> str:
    """Published figures by row and column; a dash where there is none. `form` and `column` format figures and keys."""
    keys = list(dict.fromkeys(key for row in figures.values() for key in row))
    lines = ([name, *(form.format(row[key]) if key in row else "-" for key in keys)] for name, row in figures.items())
    return rows([corner, *map(column.format, keys)], *lines)


def _by_workers(figures: Mapping[str, Mapping[int, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {f"{method} K={workers}": row for method, each in figures.items() for workers, row in each.items()}


@table
def paper_models() -> str:
    lines = []
    for size in published.SCALES:
        model = flavor(size)
        n, tokens = model.parameters, model.token_budget
        shape = (model.layers, model.heads, model.width, model.feed_forward_width)
        matrices = f"{model.parameters_by_role['matrix'] / 1e6:,.1f}M"
        lines.append([size, *map(str, shape), f"{n:,}", matrices, f"{tokens / 1e9:.2f}B", f"{6 * n * tokens:.2e}"])
    head = (
        "size",
        "layers",
        "heads",
        "width",
        "feed-forward",
        "parameters N",
        "in Muon's matrices",
        "tokens D",
        "6 N D",
    )
    return rows(head, *lines)


@table
def paper_steps() -> str:
    sizes = ("150M", "416M", "914M", "1.76B", "3.1B", "5B", "7.5B", "11B", "15B")
    return rows(("size", *sizes), ("steps at 512 sequences", *(f"{flavor(size).paper_steps:,}" for size in sizes)))


@table
def paper_decays() -> str:
    decays = {
        "Muon": {size: flavor(size).muon_decay for size in published.SCALES},
        "AdamW": {size: flavor(size).adamw_decay for size in published.SCALES},
    }
    return _published("weight decay at 512 sequences", decays, "{:g}")


@table
def paper_best_batches() -> str:
    best = {
        "Muon": {**BATCH_3_1B["DP Muon"], **BATCH_3_1B["MuLoCo"]},
        "AdamW": {**BATCH_3_1B["DP AdamW"], **BATCH_3_1B["DiLoCo"]},
    }
    return _published("sequences at the best loss", best, "{}", "K={}").replace("K=0", "DP")


@table
def paper_final_loss() -> str:
    return _published("method", published.FINAL_LOSS, "{:.3f}")


@table
def paper_dp_loss() -> str:
    return _published("method", published.DP_LOSS, "{:.4f}")


@table
def paper_over_dp() -> str:
    return _published("% above its own DP", _by_workers(published.OVER_DP), "{:+.3f}")


@table
def paper_worker_loss() -> str:
    read = {
        method: {k: row for k, row in each.items() if k in (2, 4, 8)} for method, each in published.WORKER_LOSS.items()
    }
    return _published("loss", _by_workers(read), "{:.4f}")


@table
def paper_loss_by_batch() -> str:
    tokens = {
        method: {f"{k / 2**20:g}": loss for k, loss in row.items()} for method, row in published.LOSS_BY_BATCH.items()
    }
    return _published("tokens a step, in 2^20", tokens, "{:.4f}")


@table
def paper_critical_batch() -> str:
    lines = []
    for method, row in published.CRITICAL_BATCH.items():
        sizes = (f"{row[size] / 2**20:g}" if size in row else "-" for size in published.SCALES[:5])
        lines.append([method, f"{published.CRITICAL_BATCH_EXPONENT[method]:.4f}", *sizes])
    return rows(("tokens a step, in 2^20", "exponent", *published.SCALES[:5]), *lines)


@table
def paper_exponents() -> str:
    return rows(("method", "exponent"), *((method, f"{value:.4f}") for method, value in published.EXPONENT.items()))


@table
def paper_iso_loss() -> str:
    head = ("3.1B: DP AdamW needs times as much", "compute", "sequential steps")
    return rows(head, *((name, *map("{:g}".format, ratios)) for name, ratios in published.ISO_LOSS.items()))


@table
def paper_sync_intervals() -> str:
    return _published("% above its own DP", published.SYNC_INTERVAL_OVER_DP, "{:+.2f}", "H={}")


@table
def paper_quantized() -> str:
    return _published("final loss", published.COMPRESSED_LOSS, "{:.4f}", "{} bits")


@table
def paper_topk() -> str:
    kept = {name: {100 * share: loss for share, loss in row.items()} for name, row in published.TOPK_LOSS.items()}
    return _published("final loss", kept, "{:.4f}", "{:g} %")


@table
def paper_cosines() -> str:
    return _published("inner optimizer", published.COSINE, "{:.3f}", "K={}")


@table
def paper_gaps() -> str:
    return _published("method", published.INTERFERENCE_GAP, "{:g}", "K={}")


@table
def paper_zero_shot() -> str:
    return rows(("15B", "mean accuracy"), *((name, f"{value:.2f} %") for name, value in published.ZERO_SHOT.items()))


def _hours(method: str, gbit: int) -> float:
    """The time of one of the paper's 15B runs by the model that fits its figure."""
    return (
        wall_clock(
            steps=published.WALL_CLOCK_STEPS[method],
            compute_seconds=published.WALL_CLOCK_COMPUTE_SECONDS,
            exchange_bytes=2 * flavor("15B").parameters,
            gbit_per_second=gbit,
            sync_steps=30 if method.endswith("K=16") else 1,
        ).total
        / 3600
    )


@table
def paper_wall_clock() -> str:
    lines = []
    for method, read in published.WALL_CLOCK.items():
        hours = (text for gbit in read for text in (f"{read[gbit]:g}", f"{_hours(method, gbit):.1f}"))
        lines.append([method, f"{published.WALL_CLOCK_STEPS[method]:,}", *hours])
    return rows(("hours at 15B", "steps", "10 Gbit/s", "computed", "6400 Gbit/s", "computed"), *lines)


@table
def paper_wall_clock_by_link() -> str:
    links = (10, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400)
    hours = {method: {gbit: _hours(method, gbit) for gbit in links} for method in published.WALL_CLOCK}
    return _published("hours at 15B by Gbit/s", hours, "{:.1f}")


def documents() -> list[Path]:
    return [*CHECKOUT.glob("*.md"), *sorted((CHECKOUT / "docs").glob("*.md"))]


def current(text: str) -> str:
    """A document with the tables as they are now."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block[2]]()}\n\n{block[3]}", text)


def main(words: list[str]) -> int:
    """Writes the documents, or with `--check` only names those that are not current.

    Returns:
        exit status: 1 if a document was not current.
    """
    changed = {path: text for path in documents() if (text := current(path.read_text())) != path.read_text()}
    for path, text in changed.items():
        if words != ["--check"]:
            path.write_text(text)
        sys.stderr.write(f"{path.relative_to(CHECKOUT)}: its tables were not current\n")
    return int(bool(changed) and words == ["--check"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
