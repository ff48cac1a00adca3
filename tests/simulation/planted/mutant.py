"""A planted mistake, and the files of the engine in which there are some."""

from dataclasses import dataclass

TRANSACTION, COMPANY, MEMBERSHIP = (f"outer/protocol/{name}.py" for name in ("transaction", "company", "membership"))
ROUND, TRANSPORT, ANSWERS = (f"outer/protocol/{name}.py" for name in ("peer_round", "peer_transport", "answers"))
ADMISSION, EXCHANGE, GROUP = (f"outer/protocol/{name}.py" for name in ("admission", "exchange", "group"))
REACHABILITY, COMMITS = "outer/protocol/reachability.py", "runs/commits.py"
WHEREABOUTS = "outer/protocol/whereabouts.py"
LOOP, FRAGMENT, FLIGHT, OUTGOING = (
    f"outer/loop/{name}.py" for name in ("outer_loop", "fragment", "in_flight", "outgoing")
)
RARE = "It has not been noticed in the few hundred schedules that have been run; more may be enough."


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
    more: tuple[tuple[str, str], ...] = ()
    """Further texts of the file that each occur exactly once, with their replacements."""
    survives: str = ""
    """Why the simulation does not notice it; empty if it does."""

    def applied(self, source: str) -> str:
        """Returns the source of the file with the mistake.

        Raises:
            ValueError: the text does not occur exactly once.
        """
        for text, replacement in ((self.text, self.replacement), *self.more):
            if (count := source.count(text)) != 1:
                raise ValueError(f"{self.name}: the text occurs {count} times in {self.file}, not once")
            source = source.replace(text, replacement)
        return source
