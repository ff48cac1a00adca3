"""Mistakes in the mean of a round, its weights and its residuals."""

from tests.simulation.planted.mutant import EXCHANGE, FLIGHT, OUTGOING, TRANSACTION, Mutant

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
