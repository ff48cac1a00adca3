"""How long tests wait."""

PATIENCE = 1500
"""Seconds to wait for what has to come: far more than anything takes, also where the machine does other things as well,
so that only what never comes runs into it."""
