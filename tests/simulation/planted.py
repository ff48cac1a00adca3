"""Planted mistakes: changes of a few characters in the engine, each of which the simulation has to notice."""

from dataclasses import dataclass

TRANSACTION, COMPANY, MEMBERSHIP = (f"outer/protocol/{name}.py" for name in ("transaction", "company", "membership"))
ROUND, TRANSPORT, ANSWERS = (f"outer/protocol/{name}.py" for name in ("peer_round", "peer_transport", "answers"))
ADMISSION, EXCHANGE, GROUP = (f"outer/protocol/{name}.py" for name in ("admission", "exchange", "group"))
REACHABILITY, COMMITS = "outer/protocol/reachability.py", "runs/commits.py"
LOOP, FRAGMENT, FLIGHT, OUTGOING = (
    f"outer/loop/{name}.py" for name in ("outer_loop", "fragment", "in_flight", "outgoing")
)


@dataclass(frozen=True)
class Mutant:
    """A planted mistake."""

    name: str
    file: str
    """Path below the package."""
    text: str
    """Occurs exactly once in the file."""
    replacement: str
    wrong: str
    """What the engine then does wrong, as a sentence."""
    survives: str = ""
    """Why the simulation does not notice it; empty if it does."""

    def applied(self, source: str) -> str:
        """Returns the source of the file with the mistake.

        Raises:
            ValueError: the text does not occur exactly once.
        """
        if (count := source.count(self.text)) != 1:
            raise ValueError(f"{self.name}: the text occurs {count} times in {self.file}, not once")
        return source.replace(self.text, self.replacement)


VOTE = (
    Mutant(
        "votes_yes_after_failure",
        TRANSACTION,
        "committed = this_round.vote(outcome is not None)",
        "committed = this_round.vote(True)",
        "A worker votes yes although its exchange has failed.",
        survives="Harmless: what made the exchange fail makes the comparison of seals fail, which comes before the vote.",
    ),
    Mutant(
        "vote_forgotten",
        ROUND,
        "                self._exchange_votes(name)\n",
        "",
        "A worker commits without waiting for the votes of the others.",
    ),
    Mutant(
        "commits_in_doubt",
        ROUND,
        "committed = self._ask_others(name)",
        "committed = True",
        "A worker that has lost contact in the vote commits.",
    ),
    Mutant(
        "gives_up_in_doubt",
        ROUND,
        "committed = self._ask_others(name)",
        "committed = False",
        "A worker that has lost contact in the vote gives the round up without asking the others.",
    ),
    Mutant(
        "doubt_not_said",
        ROUND,
        "transport.answers.say(name, IN_DOUBT)",
        "pass",
        "A worker that asks the others whether they have committed says that it still votes.",
    ),
    Mutant(
        "believes_those_who_vote",
        ROUND,
        "if answer == COMMITTED:",
        "if answer in (COMMITTED, VOTING):",
        "A worker in doubt commits if another one still votes.",
    ),
    Mutant(
        "no_patience_in_doubt",
        ROUND,
        "deadline = started + 2 * transport.exchange_seconds",
        "deadline = started",
        "A worker in doubt gives up without waiting for those that still vote.",
    ),
    Mutant(
        "silence_in_doubt",
        ROUND,
        "                transport.wire.abort()  # a peer that waits for this rank's vote would wait until the timeout",
        "                pass",
        "A worker in doubt keeps its connections, on which others wait for its vote until the timeout.",
    ),
    Mutant(
        "no_abort_after_failure",
        ROUND,
        "            transport.wire.abort()  # whoever waits for this worker",
        "            pass  # whoever waits for this worker",
        "After a failed round a worker keeps its connections, on which others wait until the timeout.",
        survives="Harmless in a worker of one rank: the end of a failed round cuts the connections, too.",
    ),
    Mutant(
        "wire_overrules_vote",
        ROUND,
        "        return committed\n\n    def _compare_seals",
        "        return committed and transport.wire.connected\n\n    def _compare_seals",
        "A worker does not count a round as committed if its connections are lost after the vote.",
    ),
    Mutant(
        "ignores_give_up",
        ANSWERS,
        "if name in self._rounds or name in self._given_up:",
        "if name in self._rounds:",
        "A worker votes on a round after it has told another one that the round has failed.",
    ),
    Mutant(
        "give_up_not_kept",
        ANSWERS,
        "                _remember(self._given_up, name, FAILED)\n",
        "                pass\n",
        "A worker does not remember that it has told another one that a round has failed.",
    ),
    Mutant(
        "answers_too_early",
        ANSWERS,
        "_remember(self._rounds, name, VOTING)",
        "_remember(self._rounds, name, COMMITTED)",
        "A worker answers that a round is committed before it has the votes.",
    ),
    Mutant(
        "failure_not_said",
        ROUND,
        "transport.answers.say(name, COMMITTED if committed else FAILED)",
        "if committed:\n            transport.answers.say(name, COMMITTED)",
        "A worker whose round has failed goes on answering that it votes, or is in doubt.",
    ),
    Mutant(
        "leaves_those_in_doubt",
        TRANSPORT,
        "if self.committed is not None:",
        "if False:",
        "A worker ends without waiting for those that still have to ask it for the outcome of the last round.",
    ),
    Mutant(
        "leaves_without_voting",
        TRANSACTION,
        "            this_round.vote(False)\n            return LeftBehind()",
        "            return LeftBehind()",
        "A worker that has been left behind leaves the round without a vote, and lets the others wait.",
        survives="Others wait until a timeout, but waits are not watched after a silence, by which workers are left behind.",
    ),
    Mutant(
        "rounds_not_numbered",
        TRANSPORT,
        "self._rounds += 1",
        "self._rounds += 0",
        "All rounds of a group have the same name.",
    ),
    Mutant(
        "answers_without_limit",
        ANSWERS,
        "    while len(rounds) > KEPT:\n        rounds.popitem(last=False)\n",
        "",
        "A worker remembers all rounds for ever.",
    ),
)

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
        "if len({header.digest for header in headers}) > 1:",
        "if False:",
        "Members do not compare their anchors.",
        survives="In the simulation no anchor is damaged in memory, so anchors of one history are equal.",
    ),
    Mutant(
        "digest_of_all",
        FLIGHT,
        "weight, checksum = fragment.window, fragment.digest()",
        "weight, checksum = fragment.window, fragment.digest() + fragment.window",
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
        survives="In the simulation no worker has two processes at once.",
    ),
)

MEANS = (
    Mutant(
        "weights_not_normalized",
        EXCHANGE,
        "fractions = [weight / total for weight in weights]",
        "fractions = [weight / weights[0] / len(weights) if weights[0] else weight / total for weight in weights]",
        "The weights of a round do not add up to 1 if windows have different lengths.",
    ),
    Mutant(
        "weights_ignored",
        EXCHANGE,
        "fractions = [weight / total for weight in weights]",
        "fractions = [(weight > 0) / sum(map(bool, weights)) for weight in weights]",
        "All windows have the same weight, whatever their length.",
    ),
    Mutant(
        "counts_those_behind",
        TRANSACTION,
        "weights = [header.weight if rank in leaders else 0 for rank, header in enumerate(headers)]",
        "weights = [header.weight for header in headers]",
        "The windows of workers that are behind count with their weight, though they send nothing.",
    ),
    Mutant(
        "first_part_twice",
        EXCHANGE,
        "add=number > 0)",
        "add=number > 1)",
        "The second contribution overwrites the first.",
    ),
    Mutant(
        "another_payload_for_retry",
        OUTGOING,
        "self.overwrite = not inner_steps_go_on",
        "self.overwrite = True",
        "A round that is tried again sends the parameters as they are then, with later inner steps.",
    ),
    Mutant(
        "mean_sent_for_retry",
        OUTGOING,
        "        if self.overwrite:\n            self._vector = None\n",
        "",
        "A round that is tried again sends a vector that the failed round has overwritten.",
    ),
    Mutant(
        "weight_of_later_steps",
        FLIGHT,
        "                    weight=weight,\n",
        "                    weight=fragment.window,\n",
        "The weight of a window also counts inner steps after it was sent.",
        survives="In the simulation the round begins at most milliseconds later, before the next inner step.",
    ),
    Mutant(
        "residual_of_failed_round",
        EXCHANGE,
        "        channel.begin()\n",
        "        pass\n",
        "What a failed round has left as residuals is not discarded.",
    ),
    Mutant(
        "channel_committed_before_vote",
        TRANSACTION,
        """        hit("vote")
        committed = this_round.vote(outcome is not None)
        hit("commit")
        sent += this_round.bytes_sent
        if committed:
            match outcome:
                case Committed():
                    if outcome.fragment is not None:
                        channel_of(outcome.fragment).commit()
""",
        """        hit("vote")
        if isinstance(outcome, Committed) and outcome.fragment is not None:
            channel_of(outcome.fragment).commit()
        committed = this_round.vote(outcome is not None)
        hit("commit")
        sent += this_round.bytes_sent
        if committed:
            match outcome:
                case Committed():
""",
        "A worker keeps the residuals of a round before it knows that the round is committed.",
    ),
)

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
        "A worker that takes over a state does not learn of the round in flight.",
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

PROGRESS = (
    Mutant(
        "log_not_written",
        MEMBERSHIP,
        "            self.progress.record(step, fragment, outcome.weights)\n",
        "            pass\n",
        "Rounds are not written to the commit log.",
    ),
    Mutant(
        "log_written_before_commit",
        MEMBERSHIP,
        "        outcome = agree(\n",
        "        self.progress.record(step, fragment, self.members)\n        outcome = agree(\n",
        "A round is written to the commit log before it is committed.",
    ),
    Mutant(
        "log_names_all_workers",
        MEMBERSHIP,
        "self.progress.record(step, fragment, outcome.weights)",
        "self.progress.record(step, fragment, range(self.identity.workers))",
        "The commit log says that every round had all workers.",
    ),
    Mutant(
        "never_left_behind",
        MEMBERSHIP,
        "return self.progress.committed_without_me(step, fragment)",
        "return False",
        "A worker does not look whether the others have gone on without it.",
    ),
    Mutant(
        "minority_does_not_look",
        MEMBERSHIP,
        "if set(holders) <= set(members) and 2 * len(members) > workers:",
        "if set(holders) <= set(members):",
        "Half of the workers or fewer do not look whether the others have gone on without them.",
    ),
    Mutant(
        "unknown_holders_are_here",
        MEMBERSHIP,
        "holders = range(workers) if self._holders is None else self._holders",
        "holders = self._holders or ()",
        "A worker that does not know who holds the state does not look whether others have gone on without it.",
    ),
    Mutant(
        "joiners_do_not_hold",
        MEMBERSHIP,
        "self._holders = {*members, *committed.behind}",
        "self._holders = set(members)",
        "A worker does not reckon that those that took over the state can go on without it.",
    ),
    Mutant(
        "holders_not_forgotten",
        MEMBERSHIP,
        'self.commit_hash, self.members, self._holders = state["history"], state["members"], None',
        'self.commit_hash, self.members = state["history"], state["members"]',
        "A worker that takes over a state believes that those hold it that held its own earlier one.",
    ),
    Mutant(
        "begins_again",
        MEMBERSHIP,
        "left_behind or reached > step",
        "left_behind",
        "Workers begin from an old state although the run has come further.",
    ),
    Mutant(
        "left_behind_begins",
        MEMBERSHIP,
        "left_behind or reached > step",
        "reached > step",
        "A worker that was left behind goes on from its own state if it meets nobody at a higher step.",
    ),
    Mutant(
        "does_not_look_before_beginning",
        TRANSACTION,
        "        if isinstance(outcome, Committed):\n            before_vote()\n",
        "",
        "Workers begin without looking how far the run has come.",
    ),
    Mutant(
        "reached_by_slowest",
        COMMITS,
        "return max((commit.step for commit in (*self._logged(), *self._answered())), default=0)",
        "return min((commit.step for commit in (*self._logged(), *self._answered())), default=0)",
        "The run counts as having come as far as its slowest worker.",
    ),
    Mutant(
        "reached_without_asking",
        COMMITS,
        "(*self._logged(), *self._answered())",
        "self._logged()",
        "How far the run has come is read from the logs alone, which others may see late.",
    ),
    Mutant(
        "passed_at_later_steps_only",
        COMMITS,
        "commit.step > step or (commit.step, commit.fragment) == (step, fragment)",
        "commit.step > step",
        "A worker does not notice that the others have committed this very round without it.",
    ),
    Mutant(
        "passed_by_its_own_rounds",
        COMMITS,
        "return self._worker not in commit.members and (",
        "return (",
        "A worker believes that it was left behind by rounds that it was in.",
        survives="Harmless as far as is known: a worker whose own log has come further than it only joins others.",
    ),
    Mutant(
        "only_newest_line_read",
        COMMITS,
        "found and said.step < found[0].step",
        "found and said.step <= found[0].step",
        "Of several rounds after one step only the last one is read from a commit log.",
    ),
)

MEETING = (
    Mutant(
        "other_digest_admitted",
        ADMISSION,
        "elif proof and theirs != seen:",
        "elif False:",
        "A member is admitted that has met others than this worker has.",
        survives="Harmless: another digest gives another key and group name, so the members do not connect.",
    ),
    Mutant(
        "old_entry_accepted",
        ADMISSION,
        "if rank not in admitted or nonces[rank] != own.encode():",
        "if rank not in admitted:",
        "A worker does not notice that an entry of an earlier process has taken the place of its own.",
        survives="In the simulation nobody writes the entries of others.",
    ),
    Mutant(
        "name_without_nonces",
        ADMISSION,
        'own = f"{new_nonce().hex()} {remark}"',
        'own = f"{bytes(16).hex()} {remark}"',
        "Groups of the same members have the same name and key.",
    ),
    Mutant(
        "seals_not_compared",
        ROUND,
        "        if self.size == 1:\n            return\n",
        "        if self.size:\n            return\n",
        "Members do not compare what they have sent with what has arrived.",
    ),
    Mutant(
        "vote_not_checked",
        ROUND,
        'bad = [r for r, tag in enumerate(theirs) if not self._holds(tag, "vote", name, r)]',
        "bad: list[int] = []",
        "Any bytes count as a vote.",
        survives="Nobody forges messages in the simulation, and a damaged vote is still a vote.",
    ),
    Mutant(
        "message_not_checked",
        EXCHANGE,
        "hashlib.sha256(messages[r]).digest() != told[LENGTH_BYTES:]",
        "False",
        "Members read headers that have arrived damaged.",
    ),
    Mutant(
        "announcement_not_checked",
        EXCHANGE,
        "if not hmac.compare_digest(tags[r], this_round.tag(r, number, told))",
        "if False",
        "Members use the length of a message without checking its tag.",
        survives="Nobody forges messages in the simulation, and a damaged one is noticed by digest or seal.",
    ),
    Mutant(
        "all_forget_rendezvous",
        TRANSPORT,
        "if this_round.rank == 0:",
        "if True:",
        "Every member deletes the entries of the group, also when another group already uses the store.",
    ),
    Mutant(
        "nobody_forgets_rendezvous",
        TRANSPORT,
        "if this_round.rank == 0:",
        "if False:",
        "The entries of a group stay in the store, where a restarted lighthouse leads others to them.",
    ),
    Mutant(
        "one_who_stays_out_leads",
        TRANSPORT,
        "            broken = reason\n",
        "            pass\n",
        "A worker that stays out of the rounds goes on alone.",
    ),
    Mutant(
        "both_stay_out",
        REACHABILITY,
        "            out[higher] = lower\n",
        "            out[higher], out[lower] = lower, higher\n",
        "Of two workers that do not reach each other both stay out of the rounds.",
    ),
    Mutant(
        "stays_out_for_ever",
        REACHABILITY,
        '                logger.warning("worker %d can reach worker %d again", self._worker, worker)\n'
        "                self._failures.pop(worker, None)\n",
        '                logger.warning("worker %d can reach worker %d again", self._worker, worker)\n',
        "A worker that can reach another one again still stays out of the rounds.",
    ),
    Mutant(
        "waits_for_silent",
        GROUP,
        "self._silent = {*self.missed, *out}",
        "self._silent = ()",
        "Members that were silent are waited for with the whole timeout each time.",
        survives="It only takes longer, by less than what the simulation allows until the next commit.",
    ),
    Mutant(
        "failure_not_reported",
        TRANSPORT,
        "if (not committed or broken is not None) and not self.reachability.keeps_out():",
        "if broken is not None and not self.reachability.keeps_out():",
        "After a failed round no new connections are asked for.",
    ),
    Mutant(
        "failed_connection_not_noticed",
        TRANSPORT,
        '            broken = TransportError(f"the workers could not be connected: {failure}")\n',
        "            pass\n",
        "A worker opens a round although its connections could not be made.",
    ),
    Mutant(
        "lost_connection_not_reported",
        TRANSPORT,
        "            broken = CUT_OFF\n",
        "            pass\n",
        "A worker whose connections are lost after the vote does not ask for new ones.",
    ),
    Mutant(
        "introduced_once",
        TRANSPORT,
        "if self._introduced != self.group.quorums and broken is None:",
        "if self._introduced < 0 and broken is None:",
        "The members of a later group do not tell each other their addresses.",
    ),
    Mutant(
        "addresses_not_kept",
        TRANSPORT,
        "        self._address_of |= met\n",
        "",
        "A worker does not know where to ask others how far the run has come.",
    ),
)

MUTANTS = {mutant.name: mutant for mutant in (*VOTE, *LEADERS, *MEANS, *STATE, *PROGRESS, *MEETING)}
