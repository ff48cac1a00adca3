"""Names for sets of tasks. Needs nothing but Python."""

SUITES = {
    "paper": ("mmlu", "hellaswag", "piqa", "arc_challenge", "arc_easy", "winogrande", "openbookqa"),
}
"""paper: what the MuLoCo paper's 15B models were evaluated on, zero-shot (PAPER 5.11)."""


def expand(names: list[str] | tuple[str, ...]) -> list[str]:
    """Names of tasks, with those of suites replaced by what is in them; each once, in order."""
    return list(dict.fromkeys(task for name in names for task in SUITES.get(name, (name,))))
