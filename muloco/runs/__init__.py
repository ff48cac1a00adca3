"""The files of a run: its folder, metrics, commit logs and checkpoints. Needs nothing but Python, except for
reading the tensors of a checkpoint."""
