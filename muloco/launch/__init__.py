"""Starting a run on this machine: the lighthouse, the workers, one view of them all."""
