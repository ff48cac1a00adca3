"""MuLoCo (arXiv 2505.23725): Muon as the inner optimizer, DiLoCo as the outer one."""

__version__ = "0.1.0"
