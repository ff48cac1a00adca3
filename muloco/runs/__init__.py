"""What a run leaves on disk: its folder, metrics, commit logs and checkpoints. Needs nothing but Python, except for
reading the tensors of a checkpoint."""
