"""Looking at finished runs, and ahead at runs to come: plots, reports, scaling laws, time and memory.

palette.py, canvas.py    how a method looks in every figure; what figures are drawn on
terminal.py, output.py   tables that fit a terminal; files that are written where a user says
"""

from muloco.analysis.power_law import PowerLaw, fit_power_law
from muloco.analysis.wall_clock import WallClock, wall_clock

__all__ = ["PowerLaw", "WallClock", "fit_power_law", "wall_clock"]
