"""MuLoCo: Muon inside, DiLoCo outside (arXiv 2505.23725)."""

__version__ = "0.1.0"
