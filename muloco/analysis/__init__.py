"""Analysis of finished runs and planning of future ones: plots, reports, scaling laws, time and memory.

Finished runs are read and pooled in records/, on which claims/ and report/ are built.
"""

from muloco.analysis.power_law import PowerLaw, fit_power_law
from muloco.analysis.wall_clock import WallClock, wall_clock

__all__ = ["PowerLaw", "WallClock", "fit_power_law", "wall_clock"]
