"""Runs simulated schedules: one, told as a story, or many."""

import argparse
import sys
import traceback
from collections import Counter

from tests.simulation.faults import draw
from tests.simulation.many import run_many
from tests.simulation.shrink import shrink
from tests.simulation.story import tell


def main() -> int:
    """Returns the exit status: 1 if a schedule has failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, metavar="N", help="run the schedule of this seed, and tell what happens")
    parser.add_argument("--as-drawn", action="store_true", help="do not shorten a schedule that fails")
    parser.add_argument("--schedules", type=int, metavar="N", default=1000, help="run so many schedules (default 1000)")
    parser.add_argument("--first", type=int, metavar="N", default=0, help="seed of the first one (default 0)")
    parser.add_argument("--minutes", type=float, metavar="M", default=600.0, help="end after so many minutes")
    parser.add_argument("--jobs", type=int, metavar="J", default=2, help="number of processes (default 2)")
    parser.add_argument("--workers", type=int, metavar="K", help="number of simulated workers (default: 2 to 5)")
    args = parser.parse_args()
    if args.seed is not None:
        return _tell(args.seed, args.workers, as_drawn=args.as_drawn)
    return _many(args)


def _tell(seed: int, workers: int | None, *, as_drawn: bool) -> int:
    schedule = draw(seed, workers=workers)
    outcome = schedule.run()
    if outcome.failure is not None and not as_drawn:
        schedule = shrink(schedule)
    outcome = schedule.run(told=True)
    for line in tell(schedule, outcome):
        sys.stdout.write(f"{line}\n")
    if outcome.failure is not None:
        traceback.print_exception(outcome.failure)
    return int(outcome.failure is not None)


def _many(args: argparse.Namespace) -> int:
    tally, told = None, set[int]()
    for tally in run_many(
        args.first, schedules=args.schedules, minutes=args.minutes, jobs=args.jobs, workers=args.workers
    ):
        for seed, reason in tally.failures.items():
            if seed not in told:
                told.add(seed)
                sys.stdout.write(f"seed {seed}: {reason}\n")
                sys.stdout.flush()
    assert tally is not None, "there is at least one schedule"
    sys.stdout.write(f"{tally.summary()}\n")
    for reason, count in Counter(tally.failures.values()).most_common():
        sys.stdout.write(f"{count:>6} x {reason}\n")
    return int(bool(tally.failures))


if __name__ == "__main__":
    sys.exit(main())
