"""Starting a run, here or over the nodes of a SLURM job: the lighthouse, the workers, one view of them all."""
