"""Looking at finished runs. Reads run folders and nothing else."""
