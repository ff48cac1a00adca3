"""The runs of `compression_loss.py` beside the paper's: a table, claims that hold or do not, a plot."""

from pathlib import Path
from typing import Any

from muloco.analysis import published
from muloco.analysis.chart import Bars, Figure, Panel, Series
from muloco.analysis.draw import draw_to

METHODS = {"muloco": "MuLoCo", "diloco": "DiLoCo"}
CODECS = ("statistical", "linear", "lloyd_max")
BITS = (2, 4, 8)
FRACTIONS, KEPT = ("2.5%", "10%"), (0.025, 0.1)
LOSSY = [f"{codec}-{bits}bit" for codec in CODECS for bits in BITS] + [f"topk-{fraction}" for fraction in FRACTIONS]


def _of_the_paper(name: str) -> dict[str, tuple[float, float]]:
    """Its final losses at 416M and K = 8 (PAPER 5.8) by what is sent: without and with error feedback."""
    losses: dict[str, tuple[float, float]] = {}
    for codec in CODECS[:2]:
        plain, fed_back = (published.COMPRESSED_LOSS[f"{name} {codec}{ef}"] for ef in ("", " EF"))
        losses |= {f"{codec}-{bits}bit": (plain[bits], fed_back[bits]) for bits in BITS}
        losses["fp32"] = (plain[32], fed_back[32])
    plain, fed_back = (published.TOPK_LOSS[f"{name}{ef}"] for ef in ("", " EF"))
    return losses | {
        f"topk-{share}": (plain[kept], fed_back[kept]) for share, kept in zip(FRACTIONS, KEPT, strict=True)
    }


PAPER = {method: _of_the_paper(name) for method, name in METHODS.items()}


def loss(result: dict[str, Any], method: str, what: str, *, feedback: bool = False) -> float | None:
    """Final held-out loss of a run; None: it has not been made."""
    run = result["runs"].get(f"{method}-{what}{'-ef' if feedback else ''}")
    return run and run["loss"]


def spread(result: dict[str, Any]) -> float:
    """How far fp32 runs of the two seeds lie apart, the larger of both methods."""
    return max(abs(loss(result, m, "fp32") - loss(result, m, "fp32-seed2")) for m in METHODS)


def over_fp32(result: dict[str, Any], method: str, what: str, *, feedback: bool) -> float | None:
    """Final loss in % above the method's own fp32 run."""
    found = loss(result, method, what, feedback=feedback)
    return None if found is None else 100 * (found / loss(result, method, "fp32") - 1)


def paper_over_fp32(method: str, what: str, *, feedback: bool) -> float | None:
    found = PAPER[method].get(what)
    return None if found is None else 100 * (found[feedback] / PAPER[method]["fp32"][0] - 1)


def claims(result: dict[str, Any]) -> list[tuple[str, str, bool | None]]:
    """Returns the claims of the paper's figures about the order of the losses: (claim, method, whether it holds here;
    None if runs are missing)."""
    near = spread(result)
    found: list[tuple[str, str, bool | None]] = []
    for method, name in METHODS.items():

        def at(what: str, feedback: bool = False, method: str = method) -> float:
            value = loss(result, method, what, feedback=feedback)
            if value is None:
                raise LookupError(what)
            return value

        def fp32() -> float:
            return at("fp32")

        for claim, holds in (
            (
                "8 bits lose nothing (less than the seeds differ)",
                lambda: within([(c, 8) for c in CODECS[:2]], at, near),
            ),
            (
                "4 bits lose nothing (less than the seeds differ)",
                lambda: within([(c, 4) for c in CODECS[:2]], at, near),
            ),
            ("2 bits lose more than 4", lambda: all(at(f"{c}-2bit") > at(f"{c}-4bit") for c in CODECS[:2])),
            ("statistical loses less than linear at 2 bits", lambda: at("statistical-2bit") < at("linear-2bit")),
            (
                "error feedback helps at 2 bits",
                lambda: all(at(f"{c}-2bit", True) < at(f"{c}-2bit") for c in CODECS[:2]),
            ),
            ("top-k loses more than 2 bits", lambda: at("topk-10%") > at("statistical-2bit")),
            ("fewer elements lose more in top-k", lambda: at("topk-2.5%") > at("topk-10%") > fp32()),
            ("error feedback helps top-k", lambda: all(at(f"topk-{f}", True) < at(f"topk-{f}") for f in FRACTIONS)),
        ):
            try:
                found.append((claim, name, holds()))
            except LookupError:
                found.append((claim, name, None))
    return found


def within(pairs: list[tuple[str, int]], at: Any, near: float) -> bool:
    return all(at(f"{codec}-{bits}bit") - at("fp32") <= near for codec, bits in pairs)


def table(result: dict[str, Any]) -> str:
    def cell(value: float | None) -> str:
        return f"{'-':>8}" if value is None else f"{value:+8.2f}"

    lines = [
        f"flavor {result['flavor']}, K = {result['workers']}, H = {result['sync_steps']}, {result['steps']} steps of "
        f"{result['sequences_a_step']} x {result['seq_len']} tokens; % above the method's own fp32 run; paper: 416M",
        f"{'':20} {'':8} {'no EF':>8} {'EF':>8} {'paper':>8} {'EF':>8}",
    ]
    for method, name in METHODS.items():
        lines.append(f"{name}: fp32 {loss(result, method, 'fp32'):.4f}, paper {PAPER[method]['fp32'][0]}")
        for what in LOSSY:
            ours = [over_fp32(result, method, what, feedback=feedback) for feedback in (False, True)]
            theirs = [paper_over_fp32(method, what, feedback=feedback) for feedback in (False, True)]
            lines.append(f"  {what:27} " + " ".join(map(cell, [*ours, *theirs])))
    lines.append(f"fp32 runs of two seeds lie {spread(result):.4f} apart")
    says = {True: "as in the paper", False: "NOT as in the paper", None: "not run"}
    lines += [f"{name}: {claim}: {says[holds]}" for claim, name, holds in claims(result)]
    return "\n".join(lines)


def draw(result: dict[str, Any], file: Path) -> None:
    """Loss above fp32 in % by codec, beside the paper's."""
    panels = []
    for method, name in METHODS.items():
        near = 100 * spread(result) / loss(result, method, "fp32")
        apart = [
            Series(label="two seeds of fp32" * (y > 0), look="two seeds of fp32", x=[], y=[y], horizontal=True)
            for y in (near, -near)
        ]
        ours = [over_fp32(result, method, what, feedback=feedback) for feedback in (False, True) for what in LOSSY]
        theirs = [paper_over_fp32(method, what, feedback=feedback) for feedback in (False, True) for what in LOSSY]
        panels.append(_panel(f"{name}, flavor {result['flavor']}, here", ours, apart))
        panels.append(_panel(f"{name}, 416M, paper", theirs, []))
    title = f"Final held-out loss with compressed pseudogradients, K = {result['workers']}"
    draw_to(Figure(name=file.stem, title=title, panels=panels, note=title, across=2), file)


def _panel(title: str, heights: list[float | None], lines: list[Series]) -> Panel:
    """A panel of bars: those without error feedback are the first half of the heights."""
    labels = ("without error feedback", "with error feedback")
    halves = heights[: len(LOSSY)], heights[len(LOSSY) :]
    bars = [Bars(label=label, heights=half) for label, half in zip(labels, halves, strict=True)]
    return Panel(title=title, xlabel="", ylabel="% above fp32", series=[*bars, *lines], categories=LOSSY)
