"""Drop-in optimizers for any PyTorch loop. Needs torch alone; docs/optimizers.md has examples.

from muloco.pytorch import MuLoCo1

optimizer = MuLoCo1(model, inner_lr=0.02, sync_interval=30)
print(optimizer.describe_groups())
"""

from muloco.optim import GPA, MuLoCo1, Muon

__all__ = ["GPA", "MuLoCo1", "Muon"]
