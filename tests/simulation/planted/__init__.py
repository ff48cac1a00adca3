"""Planted mistakes: changes of a few characters in the engine, each of which the simulation has to notice."""

from tests.simulation.planted.leaders import LEADERS
from tests.simulation.planted.means import MEANS
from tests.simulation.planted.meeting import MEETING
from tests.simulation.planted.mutant import Mutant
from tests.simulation.planted.outsiders import OUTSIDERS
from tests.simulation.planted.progress import PROGRESS
from tests.simulation.planted.ranks import RANKS
from tests.simulation.planted.state import STATE
from tests.simulation.planted.vote import VOTE
from tests.simulation.planted.waiting import WAITING

GROUPS = VOTE, LEADERS, MEANS, STATE, PROGRESS, MEETING, RANKS, WAITING, OUTSIDERS
MUTANTS = {mutant.name: mutant for group in GROUPS for mutant in group}

__all__ = ["GROUPS", "MUTANTS", "Mutant"]
