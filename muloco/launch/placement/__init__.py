"""Where the processes of a run live: on the devices and cores of this machine, or on the nodes of a SLURM job."""
