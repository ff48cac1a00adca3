"""What the view shows, on a terminal and elsewhere."""

import io

from rich.console import Console

from muloco.launch.live import View
from muloco.training.config import Config

LINES = [
    {"worker": 0, "step": 30, "loss": 5.25, "tokens_per_second": 1234.5},
    {"worker": 1, "step": 29, "loss": 5.5, "tokens_per_second": 2000.0},
    {
        "worker": 0,
        "step": 30,
        "event": "sync",
        "participants": 2,
        "bytes_sent": 2_500_000,
        "seconds_waited": 0.25,
        "digest": "ab" * 8,
    },
    {"worker": 0, "step": 30, "validation_loss": 5.125},
]


def view(*, terminal: bool) -> tuple[View, io.StringIO]:
    config = Config()
    config.fault_tolerance.group_size = 2
    config.training.steps = 60
    out = io.StringIO()
    return View(config, Console(file=out, force_terminal=terminal, width=120, color_system=None)), out


def test_elsewhere_lines_for_syncs_and_validations_and_all_logs() -> None:
    shown, out = view(terminal=False)
    with shown:
        shown.update(LINES)
        shown.log(1, "12:00:00 INFO fine [/not markup]")
    assert out.getvalue().splitlines() == [
        "step 30/60: sync of 2 workers, 2.5 MB sent by each, 0.25 s waited, anchor abababababababab",
        "step 30/60: validation loss 5.1250",
        "worker 1 | 12:00:00 INFO fine [/not markup]",
    ]


def test_on_a_terminal_a_table_and_only_the_logs_that_need_attention() -> None:
    shown, out = view(terminal=True)
    with shown:
        shown.update(LINES)
        shown.log(0, "12:00:00 INFO fine")
        shown.log(1, "12:00:00 WARNING hot")
    text = out.getvalue()
    assert "worker 1 | 12:00:00 WARNING hot" in text and "INFO fine" not in text
    for cell in ("5.2500", "1,234", "5.1250", "2.5", "abababababababab", "29/60"):
        assert cell in text, cell
