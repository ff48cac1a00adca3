"""Every command that the documents print, and the one rule by which the slow ones are shortened."""

import re
import shlex

from muloco.settings.load import CHECKOUT

DOCUMENTS = [
    *(CHECKOUT / name for name in ("README.md", "RUNNING_JOBS.md", "CONTRIBUTING.md", "LIMITATIONS.md")),
    *sorted((CHECKOUT / "docs").glob("*.md")),
    *sorted((CHECKOUT / "results").glob("**/*.md")),
]
PROGRAM = re.compile(
    r"([A-Z_]+=\S+ )?"
    r"(muloco(?= [a-z])|make|python|torchrun|source|\.|sbatch|bash|cp|pip|uv|(\./)?[\w/]+\.sh) "
)
STANDS_FOR = {  # what a reader replaces, and what the test has in its place
    "hf:OWNER/NAME": "books.jsonl",
    "--data.tokenizer FOLDER": "--data.tokenizer outputs/NAME/tokenizer",
    "--checkpoint.initial FOLDER": "--checkpoint.initial exported",
    "--checkpoint.initial DIR": "--checkpoint.initial exported",
    "hellaswag,piqa,arc_easy": "local_choice,local_rolling",
    "hellaswag,piqa": "local_choice,local_rolling",
    "hellaswag piqa": "local_choice local_rolling",
    "--evaluation.tasks paper": "--evaluation.tasks local_choice",
    "http://host:port": "$LIGHTHOUSE",
    "--training.steps 5000": "--training.steps 6",  # the run that is resumed has 4
    "--step 2000": "--step 4",
    "/new/place/books.jsonl": "embedded",  # the same text as at its start
    "CONFIG": "config/laptop/muloco.py",
    "CHECKPOINT": "outputs/NAME",
    "FILE": "jobs/muloco_paper/sync_intervals_416M.py",
}
SHORT = {
    "model.flavor": "tiny",
    "training.steps": "6",
    "training.seq_len": "64",
    "training.global_batch_size": "16",
    "lr_scheduler.warmup_steps": "1",
    "validation.sequences": "16",
    "fault_tolerance.sync_steps": "6",
    "metrics.tensorboard": "False",
}
"""The rule: a command that trains is run with `--dry-run`. `make test-all` also trains by those of the README, which
get these words as well, except for fields that they set themselves; not by those that need GPUs or a cluster. `make`
and the programs in benchmarks/ are asked whether they know what to do."""


def printed() -> list[str]:
    """All commands, each once, as a user would type them: without comments, one for each choice in brackets."""
    found: dict[str, None] = {}
    for document in DOCUMENTS:
        text = document.read_text()
        blocks = re.sub(r"\\\n\s*", "", text).splitlines()
        fenced = "\n".join(re.findall(r"^```bash\n(.*?)^```$", re.sub(r"\\\n\s*", "", text), re.M | re.S)).splitlines()
        blocks = [line for line in blocks if line.startswith("    ")] + fenced
        lines = [re.split(r"\s+#|  <-", line.strip())[0] for line in blocks]
        spans = [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", text)]
        for command in (*lines, *spans):
            if PROGRAM.match(command) and "..." not in command:
                found |= dict.fromkeys(_choices(command.removesuffix("&").strip()))
    return list(found)


def _choices(command: str) -> list[str]:
    """`a [--b | c]` is `a`, `a --b` and `a c`; `a [--b N]` is `a`, since what N may be is not printed."""
    optional = re.search(r"\s\[([^\]]*)\]", command)
    if optional is None:
        return [command]
    rest = command.replace(optional[0], "", 1)
    options = [option.strip() for option in optional[1].split("|")]
    known = [option for option in options if len(option.split()) == 1]
    return [choice for option in ("", *known) for choice in _choices(f"{rest} {option}".strip())]


def replaced(command: str) -> str:
    """With what the test has in place of what a reader fills in."""
    for name, ours in STANDS_FOR.items():
        command = re.sub(rf"(?<![\w/]){re.escape(name)}(?!\w)", ours, command)
    return command


def shortened(command: str) -> str:
    """By the rule, for a command that trains."""
    given = {word.removeprefix("--").partition("=")[0] for word in shlex.split(command) if word.startswith("--")}
    return " ".join([command, *(f"--{name} {value}" for name, value in SHORT.items() if name not in given)])
