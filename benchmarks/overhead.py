"""What synchronization costs, and what overlap saves.

    python benchmarks/overhead.py sync        tokens/s with outer steps beside without, and beside torchtitan's Trainer
    python benchmarks/overhead.py link        the same on a slow link, with and without overlap (needs root: see below)
    python benchmarks/overhead.py exchange    our exchange beside gloo's all-reduce and torchft's, on loopback
    python benchmarks/overhead.py seals       our rounds with seals beside rounds without (needs root, too)

sync: real runs of `muloco train`, one window each. What is compared trains at the same time, so that whatever else the
machine does disturbs both: a worker with outer steps beside one without, two workers over torchft beside two that know
nothing of each other. As wall time on shared cores tells no few per cent apart, ratio is of processor time, times the
share of the time that inner steps did not stand still for a sync (medians over the rounds); wall ratios: of tokens/s.
link: two workers in network namespaces of their own, on links shaped so that a dense exchange takes some inner steps
(`shaped_link.py` says what it needs). kept: share of the time that inner steps ran, beside that without the shaping,
all inner steps counting as the median one of their run; waited: that they stood still for a sync, the outer step
included; hidden: what of the rounds' time ran beside them; both of the worker that came last to a round, in seconds a
round. share: of its rounds' time, hidden. skew: seconds that the other one waited longer, for that one.
exchange: processes of one thread average the same number of fp32 elements, in turns.
seals: workers in network namespaces do the same on links of 1 Gbit/s and on unshaped ones, in turns with seals of
GMACs, as in host memory, with seals of sums, as in device memory, and with none (the benchmark changes the transport).
Where processors are shared or all busy, processor time says what seals cost.

Each prints a table and writes results/overhead/WHAT.json.
"""

import argparse
import json
import shlex
import signal
import sys
import tempfile
from pathlib import Path

import overhead_exchange
import overhead_link
import overhead_seals
import overhead_sync
from shaped_link import why_impossible

RESULTS = Path(__file__).parents[1] / "results" / "overhead"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    sync, link, exchange, seals = (kinds.add_parser(kind) for kind in ("sync", "link", "exchange", "seals"))
    for kind, rounds in ((sync, 3), (link, 3), (exchange, 9), (seals, 21)):
        kind.add_argument("--rounds", type=int, default=rounds)
    for kind in (sync, link):
        kind.add_argument("--threads", type=int, default=1, help="of a worker")
    link.add_argument("--exchange-steps", type=float, default=1.5, help="inner steps in which it carries an exchange")
    link.add_argument("--megabits", type=float, help="rate of the link, in place of that")
    for kind, elements in ((exchange, 16 * 2**20), (seals, 4 * 2**20)):
        kind.add_argument("--elements", type=int, default=elements, help="fp32 numbers to average")
    chosen = parser.parse_args()
    if chosen.kind in ("link", "seals") and (reason := why_impossible()):
        parser.exit(2, f"overhead: {reason}\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # namespaces and processes go then too
    with tempfile.TemporaryDirectory() as scratch:
        if chosen.kind == "sync":
            result = overhead_sync.measure(Path(scratch), rounds=chosen.rounds, threads=chosen.threads)
            text = overhead_sync.table(result)
        elif chosen.kind == "link":
            result = overhead_link.measure(
                Path(scratch),
                rounds=chosen.rounds,
                threads=chosen.threads,
                exchange_steps=chosen.exchange_steps,
                megabits=chosen.megabits,
            )
            text = overhead_link.table(result)
        elif chosen.kind == "seals":
            result = overhead_seals.measure(Path(scratch), rounds=chosen.rounds, elements=chosen.elements)
            text = overhead_seals.table(result)
        else:
            result = overhead_exchange.measure(Path(scratch), rounds=chosen.rounds, elements=chosen.elements)
            text = overhead_exchange.table(result)
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "benchmarks/overhead.py", *sys.argv[1:]])
    (RESULTS / f"{chosen.kind}.json").write_text(json.dumps({"command": command, **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
