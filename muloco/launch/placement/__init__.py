"""The placement of a run's processes: on the devices and cores of this machine, or on the nodes of a SLURM job."""
