"""Mistakes in the state of a worker, and in how it is handed on."""

from tests.simulation.planted.mutant import ANSWERS, FRAGMENT, LOOP, MEMBERSHIP, TRANSACTION, Mutant

STATE = (
    Mutant(
        "window_not_reset",
        FRAGMENT,
        "        self.merged_with_local = alpha > 0\n        self.window = 0\n",
        "        self.merged_with_local = alpha > 0\n",
        "The weight of a window also counts the inner steps of earlier windows.",
    ),
    Mutant(
        "window_kept_after_joining",
        FRAGMENT,
        "        self.merge()\n        self.channel.clear()\n",
        "        self.channel.clear()\n",
        "A worker that has taken over a state goes on in its own window, with its own parameters.",
    ),
    Mutant(
        "residuals_kept_after_joining",
        FRAGMENT,
        "        self.merge()\n        self.channel.clear()\n",
        "        self.merge()\n",
        "A worker that has taken over a state keeps its own residuals.",
    ),
    Mutant(
        "another_workers_window",
        LOOP,
        "            if own:\n                fragment.load_residuals",
        "            if own or not saved.residuals:\n                fragment.load_residuals",
        "A worker that takes over a state also takes over the window of the other worker.",
    ),
    Mutant(
        "hash_not_extended",
        TRANSACTION,
        'commit_hash=_extended(leading[0].commit_hash, f"{this_round.name}: {members}")',
        'commit_hash=leading[0].commit_hash or _extended("", this_round.name)',
        "The commit hash stays what it was at the start.",
    ),
    Mutant(
        "hash_without_round",
        TRANSACTION,
        'f"{this_round.name}: {members}"',
        "members",
        "Different rounds of the same members have the same commit hash.",
    ),
    Mutant(
        "positions_not_kept",
        MEMBERSHIP,
        "        self.data_positions |= committed.data_positions\n",
        "",
        "A worker does not remember how far the data of the others have been used.",
    ),
    Mutant(
        "positions_not_loaded",
        MEMBERSHIP,
        'self.data_positions = dict(state["shares"])',
        "pass",
        "A worker that takes over a state does not take over how far its own data have been used.",
    ),
    Mutant(
        "positions_of_last_round_only",
        MEMBERSHIP,
        "self.data_positions |= committed.data_positions",
        "self.data_positions = committed.data_positions",
        "A worker only remembers how far the data of the members of the last round have been used.",
    ),
    Mutant(
        "position_in_flight_forgotten",
        LOOP,
        "return self.membership.data_positions | committed.data_positions",
        "return self.membership.data_positions",
        "A worker that takes over a state forgets how far its data are used by the round in flight.",
    ),
    Mutant(
        "flight_not_handed_on",
        LOOP,
        '            position["arrived"] = self._sent.to_json()',
        "            pass",
        "A worker that goes on from a saved state forgets the round in flight.",
    ),
    Mutant(
        "old_state_handed_on",
        ANSWERS,
        "return self._offer[1] if self._offer[0] == name else None",
        "return self._offer[1] or None",
        "A worker that asks for the state after a round gets the state after an earlier one.",
    ),
    Mutant(
        "state_not_offered",
        MEMBERSHIP,
        "if committed.donates:",
        "if False:",
        "Nobody hands its state to those that are behind.",
    ),
)
