"""Analysis of finished runs and planning of future ones: plots, reports, scaling laws, time and memory.

table.py, terminal.py         tables as Markdown and CSV, and as they fit a terminal
chart.py, draw.py, palette.py figures as data, drawn by Matplotlib, with one style for each method
output.py                     checks of the files that a command writes
records/                      finished runs, read and pooled over seeds; claims/ and report/ are built on them
"""

from muloco.analysis.power_law import PowerLaw, fit_power_law
from muloco.analysis.wall_clock import WallClock, wall_clock

__all__ = ["PowerLaw", "WallClock", "fit_power_law", "wall_clock"]
