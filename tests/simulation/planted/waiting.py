"""Mistakes in how a sync waits for workers that are alive and missing in a round."""

from tests.simulation.planted.mutant import MEMBERSHIP, TRANSACTION, WHEREABOUTS, Mutant

WAITING = (
    Mutant(
        "waits_for_nobody",
        WHEREABOUTS,
        "return bool(awaited)",
        "return False",
        "A round is committed without workers that are alive and missing in it.",
    ),
    Mutant(
        "trainers_not_awaited",
        WHEREABOUTS,
        "return now < self._until",
        "return False",
        "A round is committed without workers that are in their inner steps.",
    ),
    Mutant(
        "meeting_not_awaited",
        WHEREABOUTS,
        "self._coming.setdefault(worker, now) + COMING_SECONDS",
        "self._coming.setdefault(worker, now) - COMING_SECONDS",
        "A round is committed without workers that ask the lighthouse for the others.",
    ),
    Mutant(
        "waits_for_ever",
        WHEREABOUTS,
        "return now < self._coming.setdefault(worker, now) + COMING_SECONDS",
        "return True",
        "A sync waits without end for a worker that does not reach the lighthouse.",
    ),
    Mutant(
        "no_time_after_lighthouse",
        WHEREABOUTS,
        "            self._coming.clear()\n",
        "            pass\n",
        "The time for which a sync waits goes on while the lighthouse is away.",
    ),
    Mutant(
        "other_round_ignored",
        WHEREABOUTS,
        "return _strength(said) is not None",
        "return False",
        "A round is committed while another group is about to commit one.",
    ),
    Mutant(
        "says_it_decides_too_late",
        WHEREABOUTS,
        "        self._whereabouts.now = _deciding(members)\n",
        "",
        "A worker does not say that it decides a round.",
    ),
    Mutant(
        "waits_count_as_failures",
        TRANSACTION,
        "Stranger | StaysOut | Waits)",
        "Stranger | StaysOut)",
        "A sync that waits long for a missing worker gives up.",
    ),
    Mutant(
        "members_do_not_wait",
        TRANSACTION,
        "if any(header.waits for header in leading):",
        "if False:",
        "A worker does not heed that it or another leader waits for a worker that is missing.",
    ),
    Mutant(
        "away_after_commit",
        MEMBERSHIP,
        "self.whereabouts.now = TRAINING if isinstance(outcome, Committed) else AWAY",
        "self.whereabouts.now = AWAY",
        "A worker says in its inner steps that nobody needs to wait for it.",
    ),
    Mutant(
        "away_after_rejoining",
        MEMBERSHIP,
        "        self._handover.unpack(state)\n        self.whereabouts.now = TRAINING\n",
        "        self._handover.unpack(state)\n",
        "A worker that has rejoined says that nobody needs to wait for it.",
    ),
    Mutant(
        "only_members_are_awaited",
        MEMBERSHIP,
        "self.whereabouts.search(holders,",
        "self.whereabouts.search(self.members,",
        "A sync does not wait for workers that have taken over the state since the last round.",
    ),
    Mutant(
        "gives_up_living_run",
        WHEREABOUTS,
        "return any(said != AWAY for said in self.of_others().values())",
        "return False",
        "Workers that were left behind give up the run although another worker goes on with it.",
    ),
)
