"""Analysis of finished runs and planning of future ones: plots, reports, scaling laws, time and memory.

palette.py, canvas.py    the style of each method in all figures; the figures themselves
terminal.py, output.py   tables that fit a terminal; checks of the files that a command writes
"""

from muloco.analysis.power_law import PowerLaw, fit_power_law
from muloco.analysis.wall_clock import WallClock, wall_clock

__all__ = ["PowerLaw", "WallClock", "fit_power_law", "wall_clock"]
