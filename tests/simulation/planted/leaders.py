"""Mistakes in who leads a round, and whose state is taken over."""

from tests.simulation.planted.mutant import COMPANY, FLIGHT, LOOP, TRANSACTION, Mutant

LEADERS = (
    Mutant(
        "last_leads",
        COMPANY,
        "furthest = max(",
        "furthest = min(",
        "The members that have come least far lead.",
    ),
    Mutant(
        "fewest_lead",
        COMPANY,
        "(len(ranks), -ranks[0])",
        "(-len(ranks), -ranks[0])",
        "Among members with different histories the smallest set leads.",
    ),
    Mutant(
        "histories_mixed",
        COMPANY,
        "by_hash.setdefault(headers[rank].commit_hash, [])",
        'by_hash.setdefault("", [])',
        "Members with different histories lead together.",
    ),
    Mutant(
        "too_far_ahead_inverted",
        COMPANY,
        "header.step > min(steps) + terms.sync_interval",
        "header.step < min(steps) + terms.sync_interval",
        "Members that are not far ahead are not believed.",
    ),
    Mutant(
        "one_window_too_far",
        COMPANY,
        "header.step > min(steps) + terms.sync_interval",
        "header.step > min(steps)",
        "A member that is one window ahead is not believed.",
    ),
    Mutant(
        "half_is_a_majority",
        COMPANY,
        "2 * len(workers) > terms.workers",
        "2 * len(workers) >= terms.workers",
        "Half of the workers outweigh a member that has gone on without them.",
    ),
    Mutant(
        "digest_left_out",
        TRANSACTION,
        "if len(set(digests)) > 1:",
        "if False:",
        "Members do not compare their anchors.",
    ),
    Mutant(
        "digest_of_all",
        FLIGHT,
        "return checksums([fragment])",
        "return checksums([fragment]) + fragment.window",
        "The digest of the anchor depends on the number of inner steps since the last outer step.",
    ),
    Mutant(
        "donor_behind",
        TRANSACTION,
        "itertools.cycle(leaders)",
        "itertools.cycle(behind)",
        "A worker takes over the state of one that is behind, too.",
    ),
    Mutant(
        "behind_applies_mean",
        TRANSACTION,
        "if this_round.rank in donors:",
        "if False:",
        "A worker that is behind applies the mean of the leaders to its own anchor.",
    ),
    Mutant(
        "left_behind_goes_on",
        LOOP,
        '                logger.warning("the others have gone on, this worker was left behind at step %d", step)\n'
        "                self._rejoin(step)",
        "                pass",
        "A worker that was left behind goes on with its own anchor.",
    ),
    Mutant(
        "double_not_refused",
        COMPANY,
        "if header.worker in holders:",
        "if False:",
        "Two processes of the same worker lead a round together.",
    ),
)
